// The list of conversations: open, rename, delete (with a way back), import and export.

import { title } from "./conversation.js";
import { $, el, iconButton, notice, say, toPrompt } from "./dom.js";
import { exported, imported } from "./exchange.js";

export class Sidebar {
  constructor(chat) {
    this.chat = chat;
    $("new").addEventListener("click", () => {
      chat.create();
      this.close();
      toPrompt();
    });
    $("export").addEventListener("click", () => this.export(chat.conversations));
    $("import").addEventListener("click", () => $("file").click());
    $("file").addEventListener("change", () => this.import($("file")));
    $("menu").addEventListener("click", () => this.open());
    for (const id of ["hide", "shade"]) $(id).addEventListener("click", () => this.close());
  }

  show() {
    if ($("conversations").querySelector("input")) return; // a title is being written
    const rows = this.chat.conversations.map((conversation) => this.row(conversation));
    if (!rows.length) rows.push(el("li", { className: "hint" }, "None yet. They are kept in this browser only."));
    $("conversations").replaceChildren(...rows);
  }

  row(conversation) {
    const name = title(conversation);
    const current = conversation === this.chat.current;
    const open = () => {
      this.chat.open(conversation);
      this.close();
      toPrompt();
    };
    const running = this.chat.runs.has(conversation.id) ? " running" : "";
    const button = el("button", { type: "button", className: `name${running}`, title: name, onclick: open }, name);
    if (current) button.setAttribute("aria-current", "true");
    const rename = iconButton("pencil", `Rename “${name}”`, () => this.rename(conversation, row));
    const save = iconButton("download", `Export “${name}”`, () => this.export([conversation]));
    const remove = iconButton("trash", `Delete “${name}”`, () => this.remove(conversation, row));
    const row = el("li", {}, button, el("span", { className: "actions" }, rename, save, remove));
    return row;
  }

  rename(conversation, row) {
    const field = el("input", { value: title(conversation), maxLength: 200, ariaLabel: "Title" });
    let open = true; // taking the field away blurs it
    const done = (keep) => {
      if (!open) return;
      open = false;
      field.remove();
      if (keep) this.chat.rename(conversation, field.value);
      else this.show();
      $("conversations").querySelector("[aria-current]")?.focus();
    };
    field.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") done(true);
      if (event.key === "Escape") done(false);
    });
    field.addEventListener("blur", () => done(true));
    row.replaceChildren(field);
    field.select();
  }

  remove(conversation, row) {
    const next = row.nextElementSibling ?? row.previousElementSibling;
    const at = [...row.parentNode.children].indexOf(next ?? row);
    this.chat.remove(conversation);
    const undo = { label: "Undo", run: () => this.chat.restore(conversation) };
    notice(`“${title(conversation)}” was deleted.`, { action: undo, seconds: 12 });
    const rows = $("conversations").children;
    (rows[Math.min(at, rows.length - 1)]?.querySelector("button") ?? $("new")).focus();
  }

  export(conversations) {
    if (!conversations.length) return notice("There is no conversation to export yet.", { seconds: 6 });
    const address = URL.createObjectURL(new Blob([exported(conversations)], { type: "application/json" }));
    const name = conversations.length === 1 ? fileName(conversations[0]) : "conversations";
    el("a", { href: address, download: `dsv4-${name}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
    return undefined;
  }

  async import(field) {
    const [file] = field.files;
    field.value = "";
    if (!file) return;
    try {
      if (file.size > 64 * 1024 * 1024) throw new Error("The file is larger than 64 MiB.");
      const added = this.chat.add(imported(await file.text()));
      say(`${added} imported.`);
      notice(`${added} conversation${added === 1 ? "" : "s"} imported.`, { seconds: 6 });
    } catch (error) {
      notice(`Nothing was imported. ${error.message}`);
    }
  }

  open() {
    document.body.classList.add("menu-open");
    $("menu").setAttribute("aria-expanded", "true");
    $("shade").hidden = false;
    document.querySelector("main").inert = true;
    $("hide").focus();
  }

  close() {
    if (!document.body.classList.contains("menu-open")) return false;
    document.body.classList.remove("menu-open");
    $("menu").setAttribute("aria-expanded", "false");
    $("shade").hidden = true;
    document.querySelector("main").inert = false;
    $("menu").focus();
    return true;
  }
}

function fileName(conversation) {
  const words = title(conversation).toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? ["conversation"];
  return words.slice(0, 6).join("-");
}
