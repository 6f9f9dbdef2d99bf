// Markdown that grows: whole blocks are rendered once, the unfinished one is plain text meanwhile.

import { el } from "./dom.js";
import { render, renderable } from "./render.js";

export class Markdown {
  constructor() {
    this.done = el("div", { className: "done" });
    this.tail = el("div", { className: "tail" });
    this.element = el("div", { className: "markdown" }, this.done, this.tail);
    this.text = "";
    this.at = 0; // text before this is rendered
    this.pieces = 0;
    this.finished = false;
    this.busy = false;
  }

  update(text, finished) {
    if (text === this.text && finished === this.finished) return;
    const goesOn = this.finished && !finished; // the last block was rendered before it was whole
    if (goesOn || !text.startsWith(this.text.slice(0, this.at))) this.reset();
    this.text = text;
    this.finished = finished;
    this.showTail();
    this.advance();
  }

  reset() {
    this.at = this.pieces = 0;
    this.done.replaceChildren();
  }

  showTail() {
    const rest = this.text.slice(this.at);
    if (this.tail.textContent !== rest) this.tail.textContent = rest;
    this.tail.classList.toggle("code", /^(```|~~~)/.test(rest));
  }

  async advance() {
    if (this.busy) return;
    this.busy = true;
    for (;;) {
      const from = this.at;
      const end = this.finished ? this.text.length : blockEnd(this.text, from);
      if (end === from) break;
      const piece = this.text.slice(from, end);
      const nodes = renderable(piece) ? await render(piece) : null;
      if (this.at !== from || !this.text.startsWith(piece, from)) continue; // replaced meanwhile
      if (!nodes) break;
      this.done.append(...nodes);
      this.at = end;
      this.pieces += 1;
      this.showTail();
    }
    this.busy = false;
    if (this.finished && this.pieces > 1 && this.at === this.text.length) await this.whole();
  }

  // Once more in one piece, since a block may refer to another: a link's address, a list's next item.
  async whole() {
    const text = this.text;
    if (!renderable(text)) return;
    const nodes = await render(text);
    if (nodes && this.text === text) {
      this.done.replaceChildren(...nodes);
      this.pieces = 1;
    }
  }
}

const FENCE = /^\s*(`{3,}|~{3,})/;
const GOES_ON = /^([ \t>]|[-*+]([ \t]|$)|\d)/; // a list or a quotation may go on after an empty line
const FORMULA = { "$$": "$$", "\\[": "\\]" };

// The last place in text[from…] where what stands before is sure to be whole blocks.
export function blockEnd(text, from) {
  let end = from;
  let closing = null; // of an open fence or formula
  let blank = false;
  for (let start = from; start < text.length; ) {
    const stop = text.indexOf("\n", start);
    if (stop < 0 && closing) break;
    const line = text.slice(start, stop < 0 ? text.length : stop);
    if (closing) {
      if (closing(line)) {
        closing = null;
        if (!/^\s/.test(line)) end = stop + 1;
      }
    } else {
      const fence = FENCE.exec(line);
      const formula = FORMULA[line.slice(0, 2)];
      const begins = fence ? fence.index === 0 && !/^\s/.test(line) : line !== "" && blank && !GOES_ON.test(line);
      if (begins) end = start;
      if (fence && stop >= 0) closing = fenceCloses(fence[1]);
      else if (formula && !line.slice(2).includes(formula)) closing = (next) => next.includes(formula);
    }
    blank = line.trim() === "";
    if (stop < 0) break;
    start = stop + 1;
  }
  return end;
}

function fenceCloses(mark) {
  return (line) => {
    const text = line.trim();
    return text.length >= mark.length && text === mark[0].repeat(text.length);
  };
}
