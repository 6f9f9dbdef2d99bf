// One reply: reasoning folded, text as Markdown, tool calls, and how it ended.

import { answers, awaitsResults, whyNotContinued } from "./conversation.js";
import { $, copy, el, icon, iconButton } from "./dom.js";
import { Markdown } from "./markdown.js";

export class ReplyView {
  constructor(message) {
    this.message = message;
    this.touched = false; // the reader opened or closed the reasoning: it stays as they left it
    this.summary = el("summary", {}, icon("spark"), (this.summaryText = el("span")));
    this.summary.addEventListener("click", () => (this.touched = true));
    this.thoughts = el("div", { className: "thoughts", tabIndex: 0, role: "region", ariaLabel: "Reasoning" });
    this.reasoning = el("details", { className: "reasoning", hidden: true }, this.summary, this.thoughts);
    this.markdown = new Markdown();
    this.calls = el("div", { className: "calls" });
    this.end = el("div", { className: "end" });
    this.actions = el("div", { className: "actions" });
    this.element = el(
      "article",
      { className: "reply" },
      el("h2", { className: "unseen" }, "Reply"),
      this.reasoning,
      this.markdown.element,
      this.calls,
      this.end,
      this.actions,
    );
  }

  update(chat, at) {
    const last = at === chat.current.messages.length - 1;
    const running = chat.running && last;
    this.element.setAttribute("aria-busy", running);
    this.element.classList.toggle("running", running);
    this.updateReasoning(running);
    this.markdown.update(this.message.content, !running);
    this.updateCalls(chat, at);
    const state = `${at} ${last} ${chat.running} ${this.message.finish} ${this.message.error}`;
    if (state === this.state) return;
    this.state = state;
    this.updateEnd(chat, at, last, running);
    this.updateActions(chat, at, running);
  }

  updateReasoning(running) {
    const { reasoning_content: text, content, tool_calls: calls } = this.message;
    const thinking = running && !content && !calls.length;
    const started = text !== "";
    this.reasoning.hidden = !started;
    append(this.thoughts, text);
    this.summaryText.textContent = thinking ? "Thinking" : `Thought, ${words(text)}`;
    this.reasoning.classList.toggle("live", thinking);
    if (!this.touched) this.reasoning.open = thinking && started;
    if (thinking) this.thoughts.scrollTop = this.thoughts.scrollHeight;
  }

  updateCalls(chat, at) {
    const last = at === chat.current.messages.length - 1;
    const waits = last && !chat.running && awaitsResults(chat.current);
    const given = answers(chat.current, at);
    const state = JSON.stringify([given, waits]);
    if (state === this.callState) return;
    this.callState = state;
    const cards = given.map(({ call, result }) => callCard(call, result, waits));
    if (waits) cards.push(sendResults(chat, this.message.tool_calls, cards));
    this.calls.replaceChildren(...cards);
  }

  updateEnd(chat, at, last, running) {
    this.end.replaceChildren();
    if (running) return;
    const text = this.message.error ?? howItEnded(this.message.finish);
    if (!text) return;
    this.end.className = this.message.error ? "end wrong" : "end";
    const why = last ? whyNotContinued(chat.current) : "";
    const reason = why && this.message.finish === "length" ? ` It cannot be continued: ${why}.` : "";
    this.end.append(el("span", {}, text + reason));
    if (!last || chat.running) return;
    const buttons = el("div", { className: "buttons" });
    if (!why) buttons.append(button("play", "Continue", () => chat.goOn()));
    buttons.append(button("retry", "Retry", () => chat.retry(at)));
    this.end.append(buttons);
  }

  updateActions(chat, at, running) {
    const buttons = [];
    if (this.message.content && !running) {
      const button = iconButton("copy", "Copy this reply", () => copy(this.message.content, button));
      buttons.push(button);
    }
    if (!running && !this.end.querySelector("button")) {
      const again = () => (toMessages(), chat.retry(at));
      buttons.push(iconButton("retry", "Retry: answer anew", again, { disabled: chat.running }));
    }
    this.actions.replaceChildren(...buttons);
  }
}

// What is said under a reply that ended so; "" says nothing.
function howItEnded(finish) {
  switch (finish) {
    case "stop":
    case "tool_calls":
      return "";
    case "length":
      return "The reply was cut: it reached the most tokens that were allowed.";
    case "content_filter":
      return "The server withheld the rest of the reply.";
    case "stopped":
      return "Stopped.";
    case null:
      return "The page was closed before the reply was whole.";
    default:
      return `The server ended the reply: ${finish}.`;
  }
}

// Longer text is appended, so that a selection in what stands there survives.
function append(node, text) {
  const shown = node.firstChild?.data ?? "";
  if (shown === text) return;
  if (shown && text.startsWith(shown)) node.firstChild.appendData(text.slice(shown.length));
  else node.textContent = text;
}

function words(text) {
  const n = text.split(/\s+/).filter(Boolean).length;
  return n === 1 ? "1 word" : `${n.toLocaleString("en")} words`;
}

// The button goes with the reply that it changes: the reader is left at the messages.
function button(picture, label, run) {
  return el("button", { type: "button", onclick: () => (toMessages(), run()) }, icon(picture), label);
}

const toMessages = () => $("log").focus({ preventScroll: true });

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // cut short, or no JSON: shown as it was written
  }
}

function callCard(call, result, waits) {
  const shown = pretty(call.function.arguments);
  const copyButton = iconButton("copy", "Copy the arguments", () => copy(shown, copyButton));
  const head = el("div", { className: "codehead" }, icon("wrench"), el("strong", {}, call.function.name), copyButton);
  const card = el("div", { className: "call" }, head, el("pre", { tabIndex: 0 }, shown));
  if (result) card.append(el("div", { className: "label" }, "Result"), el("pre", { tabIndex: 0 }, result.content));
  else if (waits) {
    const field = el("textarea", { rows: 2, className: "code", placeholder: "What the tool returns" });
    card.append(el("label", {}, el("span", { className: "label" }, `Result of ${call.function.name}`), field));
  }
  return card;
}

function sendResults(chat, calls, cards) {
  const fields = cards.map((card) => card.querySelector("textarea"));
  const send = () => {
    const results = calls.map((call, i) => ({ tool_call_id: call.id, content: fields[i].value }));
    toMessages();
    chat.giveResults(results);
  };
  const label = calls.length === 1 ? "Send the result" : "Send the results";
  return el("div", { className: "buttons" }, el("button", { type: "button", className: "primary", onclick: send }, label));
}
