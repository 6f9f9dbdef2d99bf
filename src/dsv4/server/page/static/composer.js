// The field for a message, what may be sent, and the line that says how the last reply went.

import { $, notice, toPrompt, touch } from "./dom.js";

export class Composer {
  constructor(chat, settings) {
    this.chat = chat;
    this.settings = settings;
    this.field = $("prompt");
    this.field.addEventListener("input", () => this.fit());
    this.field.addEventListener("keydown", (event) => {
      // a touch screen has no Shift: there Enter begins a line
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || touch.matches) return;
      event.preventDefault();
      this.send();
    });
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    $("stop").addEventListener("click", () => {
      chat.stop();
      toPrompt();
    });
    if (touch.matches) $("keys-hint").hidden = true;
    setInterval(() => chat.running && this.status(), 1000);
  }

  send() {
    const text = this.field.value.trim();
    if (!text || this.chat.running) return;
    if (!this.settings.checkTools()) {
      notice("The tools in the settings cannot be read.", { action: { label: "Settings", run: () => $("settings").showModal() } });
      return;
    }
    this.field.value = "";
    this.fit();
    toPrompt();
    this.chat.send(text);
  }

  fit() {
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight, window.innerHeight * 0.4)}px`;
  }

  show() {
    const { running } = this.chat;
    if (running) this.began ??= performance.now();
    else this.began = null;
    $("send").hidden = running;
    $("stop").hidden = !running;
    this.status();
  }

  status() {
    const last = this.chat.current.messages.findLast((message) => message.role === "assistant");
    const why = last?.usage?.not_reused_because;
    $("status").title = why ? `Not more of the prompt was cached: ${why}` : "";
    $("status").textContent = this.chat.running ? progress(last, this.began) : figures(last);
  }
}

function progress(message, began) {
  const said = message.content || message.tool_calls.length ? "Writing" : message.reasoning_content ? "Thinking" : "Waiting";
  return `${said}… ${Math.round((performance.now() - began) / 1000)} s`;
}

// "1,204 prompt tokens, 1,190 of them cached · 86 reply tokens · 41.3 tokens/s"
function figures(message) {
  if (!message?.usage) return "";
  const { prompt_tokens: prompt, completion_tokens: said, prompt_cache_hit_tokens: cached } = message.usage;
  const count = (n) => n.toLocaleString("en");
  const parts = [`${count(prompt)} prompt tokens${cached === null ? "" : `, ${count(cached)} of them cached`}`];
  parts.push(`${count(said)} reply tokens`);
  if (message.seconds > 0.1 && said > 1) parts.push(`${((said - 1) / message.seconds).toFixed(1)} tokens/s`);
  return parts.join(" · ");
}
