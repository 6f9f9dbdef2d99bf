// The fields of the settings ↔ the current conversation's settings; models; the API key.

import { key, listModels } from "./api.js";
import { EFFORTS, parseTools } from "./conversation.js";
import { $, el, notice } from "./dom.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
const TEXTS = { system: "system", tools: "tools", stop: "stop-strings" };

export class Settings {
  constructor(chat) {
    this.chat = chat;
    this.models = [];
    this.usual = "high"; // effort, until the server tells its own
    $("open-settings").addEventListener("click", () => $("settings").showModal());
    for (const name of NUMBERS) {
      const field = $(name);
      field.addEventListener("change", () => {
        if (field.reportValidity()) this.change(name, field.value === "" ? null : field.valueAsNumber);
      });
    }
    for (const [name, id] of Object.entries(TEXTS)) {
      $(id).addEventListener("input", () => this.change(name, $(id).value));
    }
    for (const id of ["effort", "model"]) $(id).addEventListener("change", () => this.change(id, $(id).value));
    $("key").value = key.get();
    $("key").addEventListener("change", () => {
      key.set($("key").value.trim());
      this.loadModels();
    });
    for (const dialog of document.querySelectorAll("dialog")) {
      dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
      dialog.addEventListener("click", (event) => {
        if (event.target === dialog) dialog.close(); // a click beside it
      });
    }
  }

  change(name, value) {
    this.chat.changeSettings({ [name]: value });
    if (name === "tools") this.checkTools();
  }

  show() {
    const { settings } = this.chat.current;
    for (const name of NUMBERS) $(name).value = settings[name] ?? "";
    for (const [name, id] of Object.entries(TEXTS)) $(id).value = settings[name];
    this.showEffort();
    this.showModels();
    this.checkTools();
  }

  // Says what is wrong with the tools; true if nothing is.
  checkTools() {
    let problem = "";
    try {
      parseTools(this.chat.current.settings.tools);
    } catch (error) {
      problem = error.message;
    }
    $("tools-error").textContent = problem;
    $("tools").setAttribute("aria-invalid", problem !== "");
    return problem === "";
  }

  async loadModels() {
    try {
      const { names, effort } = await listModels();
      this.models = names;
      if (EFFORTS.includes(effort)) this.usual = effort;
    } catch (error) {
      if (error.status === 401) this.locked();
      else notice(`The models cannot be listed. ${error.message}`, { action: { label: "Retry", run: () => this.loadModels() } });
      return;
    }
    $("key-error").textContent = "";
    this.showEffort();
    this.showModels();
  }

  showEffort() {
    $("effort").value = this.chat.current.settings.effort ?? this.usual;
  }

  // A model that the server no longer has gives way to its first.
  showModels() {
    const { settings } = this.chat.current;
    if (this.models.length && !this.models.includes(settings.model)) [settings.model] = this.models;
    const names = this.models.length ? this.models : [settings.model || "no model"];
    $("model").replaceChildren(...names.map((name) => el("option", { value: name }, name)));
    $("model").value = settings.model || names[0];
  }

  locked() {
    $("key-error").textContent = key.get() ? "The server does not take this key." : "The server asks for a key.";
    if (!$("settings").open) $("settings").showModal();
    $("key").focus();
  }
}
