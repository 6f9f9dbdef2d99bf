// The log: one view a message, kept as long as the message lives, brought up to date when told.

import { $, copy, el, iconButton, toPrompt } from "./dom.js";
import { ReplyView } from "./reply.js";

const PAUSE = 60; // ms between two looks at a growing reply

export class Log {
  constructor(chat) {
    this.chat = chat;
    this.views = new WeakMap(); // message → view
    this.waiting = null;
    this.follows = true; // the end stays in sight until someone scrolls up
    this.node = $("log");
    this.list = el("div");
    this.node.append(this.list);
    new ResizeObserver(() => this.follow()).observe(this.list); // Markdown may arrive late
    this.node.addEventListener("scroll", () => this.scrolled(), { passive: true });
    $("latest").addEventListener("click", () => this.toEnd());
  }

  show() {
    const { messages } = this.chat.current;
    const shown = messages.filter((message) => message.role !== "tool").map((message) => this.view(message).element);
    const now = [...this.list.children];
    const same = shown.length === now.length && shown.every((node, i) => node === now[i]);
    if (!same || !shown.length) this.list.replaceChildren(...(shown.length ? shown : [welcome()]));
    messages.forEach((message, at) => this.views.get(message)?.update(this.chat, at));
    this.follow();
  }

  view(message) {
    if (!this.views.has(message)) {
      this.views.set(message, message.role === "user" ? new UserView(message) : new ReplyView(message));
    }
    return this.views.get(message);
  }

  progress(message) {
    this.waiting ??= setTimeout(() => {
      this.waiting = null;
      const at = this.chat.current.messages.indexOf(message);
      if (at < 0) return;
      this.view(message).update(this.chat, at);
    }, PAUSE);
  }

  edit(at) {
    this.view(this.chat.current.messages[at]).edit(this.chat, at);
  }

  scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.node;
    this.follows = scrollHeight - scrollTop - clientHeight < 40;
    $("latest").hidden = this.follows;
  }

  follow() {
    const edited = this.list.querySelector(".editor"); // what is written must not be scrolled away
    if (this.follows && !edited) this.node.scrollTop = this.node.scrollHeight;
    else this.scrolled();
  }

  toEnd() {
    this.follows = true;
    this.follow();
    $("latest").hidden = true;
  }
}

function welcome() {
  return el(
    "div",
    { className: "welcome" },
    el("img", { src: "static/icon.svg", alt: "", width: 52, height: 52 }),
    el("h2", {}, "What would you like to know?"),
    el("p", {}, "The model runs on this server, and conversations stay in this browser."),
  );
}

class UserView {
  constructor(message) {
    this.message = message;
    this.text = el("div", { className: "text" });
    this.actions = el("div", { className: "actions" });
    this.element = el("article", { className: "user" }, el("h2", { className: "unseen" }, "You"), this.text, this.actions);
    this.editing = false;
  }

  update(chat, at) {
    if (this.editing) return;
    this.text.textContent = this.message.content;
    const state = `${at} ${chat.running}`;
    if (state === this.state) return;
    this.state = state;
    const edit = iconButton("pencil", "Edit this message", () => this.edit(chat, at), { disabled: chat.running });
    const button = iconButton("copy", "Copy this message", () => copy(this.message.content, button));
    this.actions.replaceChildren(edit, button);
  }

  edit(chat, at) {
    if (chat.running) return;
    this.editing = true;
    const field = el("textarea", { value: this.message.content, rows: 3, ariaLabel: "Edit the message" });
    const done = () => {
      this.editing = false;
      this.element.classList.remove("editing");
      this.state = null;
      box.replaceWith(this.text);
      this.update(chat, at);
    };
    const cancel = () => {
      done();
      this.actions.firstChild.focus();
    };
    const send = () => {
      const text = field.value.trim();
      if (!text) return;
      done();
      toPrompt();
      chat.edit(at, text);
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") (event.stopPropagation(), cancel());
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) (event.preventDefault(), send());
    });
    const buttons = el(
      "div",
      { className: "buttons" },
      el("span", { className: "hint" }, "What follows is replaced; it can be undone."),
      el("button", { type: "button", onclick: cancel }, "Cancel"),
      el("button", { type: "button", className: "primary", onclick: send }, "Send"),
    );
    const box = el("div", { className: "editor" }, field, buttons);
    this.text.replaceWith(box);
    this.actions.replaceChildren();
    this.element.classList.add("editing");
    field.style.height = `${Math.min(field.scrollHeight + 4, 400)}px`;
    field.focus();
    this.element.scrollIntoView({ block: "nearest" });
    field.setSelectionRange(field.value.length, field.value.length);
  }
}
