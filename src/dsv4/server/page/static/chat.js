// What happens to conversations: replies run, stop, are retried, edited and continued.
//
// A conversation may be left while its reply runs on; `watch` is told what changed.

import { ApiError, streamChat } from "./api.js";
import * as talk from "./conversation.js";
import * as store from "./store.js";

const SAVE_EVERY = 2000; // ms while a reply runs

export class Chat {
  constructor(watch) {
    this.watch = watch; // {list(), messages(), progress(message), problem(text), finished(message)}
    const { conversations, broken } = store.loadAll();
    this.conversations = conversations;
    this.runs = new Map(); // conversation id → AbortController
    this.current = talk.fresh(store.recallSettings());
    if (broken) watch.problem(`${broken} kept conversation(s) cannot be read and were left as they are.`);
  }

  get running() {
    return this.runs.has(this.current.id);
  }

  open(conversation) {
    this.current = conversation;
    this.watch.messages();
    this.watch.list();
  }

  create() {
    this.open(talk.fresh({ ...talk.defaults(), ...this.current.settings }));
  }

  // Writes the conversation down and puts it first.
  keep(conversation = this.current) {
    conversation.updated = Date.now();
    if (!conversation.messages.length) return;
    this.conversations = [conversation, ...this.conversations.filter((other) => other !== conversation)];
    this.write(conversation);
    this.watch.list();
  }

  write(conversation) {
    const problem = store.save(conversation);
    if (problem) this.watch.problem(problem);
  }

  changeSettings(changes) {
    Object.assign(this.current.settings, changes);
    store.remember("settings", { ...this.current.settings, system: "", tools: "" });
    if (this.current.messages.length) this.write(this.current);
  }

  rename(conversation, title) {
    conversation.title = title.trim().slice(0, 200);
    this.write(conversation);
    this.watch.list();
    this.watch.messages();
  }

  remove(conversation) {
    this.stop(conversation);
    this.conversations = this.conversations.filter((other) => other !== conversation);
    store.remove(conversation.id);
    if (conversation === this.current) this.create();
    else this.watch.list();
  }

  restore(conversation) {
    this.conversations = [...this.conversations, conversation].sort((a, b) => b.updated - a.updated);
    this.write(conversation);
    this.open(conversation);
  }

  // Adds conversations from a file; those that are here already, word for word, stay one.
  add(conversations) {
    const known = new Map(this.conversations.map((other) => [other.id, JSON.stringify(other)]));
    let added = 0;
    for (const conversation of conversations) {
      if (known.get(conversation.id) === JSON.stringify(conversation)) continue;
      if (known.has(conversation.id)) conversation.id = talk.newId();
      this.conversations.push(conversation);
      this.write(conversation);
      added += 1;
    }
    this.conversations.sort((a, b) => b.updated - a.updated);
    this.watch.list();
    return added;
  }

  send(text) {
    this.current.messages.push({ role: "user", content: text });
    return this.answer();
  }

  edit(at, text) {
    talk.branch(this.current, at, [{ role: "user", content: text }]);
    return this.answer();
  }

  retry(at) {
    talk.branch(this.current, at, []);
    return this.answer();
  }

  giveResults(results) {
    this.current.messages.push(...results.map((result) => ({ role: "tool", ...result })));
    return this.answer();
  }

  swap(way) {
    talk[way](this.current);
    this.keep();
    this.watch.messages();
  }

  answer() {
    const message = talk.reply();
    this.current.messages.push(message);
    return this.run(message, false);
  }

  goOn() {
    return this.run(this.current.messages.at(-1), true);
  }

  stop(conversation = this.current) {
    this.runs.get(conversation.id)?.abort();
  }

  async run(message, continues) {
    const conversation = this.current;
    const controller = new AbortController();
    let saved = performance.now();
    let first = 0;
    this.runs.set(conversation.id, controller);
    Object.assign(message, { finish: null, error: null, usage: null, seconds: null });
    this.keep(conversation);
    this.watch.messages();
    try {
      const body = talk.requestBody(conversation, continues);
      for await (const chunk of streamChat(body, controller.signal)) {
        const now = performance.now();
        talk.accept(message, chunk);
        first ||= now;
        if (chunk.choices?.length) message.seconds = (now - first) / 1000;
        if (now - saved > SAVE_EVERY) {
          this.write(conversation);
          saved = performance.now();
        }
        this.watch.progress(message);
      }
      if (!message.finish) throw new ApiError("The connection ended before the reply was whole.");
    } catch (error) {
      if (controller.signal.aborted) message.finish = "stopped";
      else message.error = error.message;
      if (error.status === 401) this.watch.locked();
    }
    this.runs.delete(conversation.id);
    if (this.conversations.includes(conversation)) this.keep(conversation);
    this.watch.finished(message, conversation);
  }
}
