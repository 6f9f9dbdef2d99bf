// Conversations as JSON for a file, and back: everything is checked, what is unknown is dropped.

import { defaults, EFFORTS, newId } from "./conversation.js";

const FORMAT = "dsv4-conversations";
const MAX_FILE = 16 * 1024 * 1024; // characters
const MAX_MESSAGES = 10000;

export function exported(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

// The conversations of a file's text. Throws with the place and the reason.
export function imported(text) {
  if (text.length > MAX_FILE) throw new Error("The file is longer than 16 MiB.");
  let file;
  try {
    file = JSON.parse(text);
  } catch (error) {
    throw new Error(`The file is not JSON: ${error.message}`);
  }
  if (file?.format !== FORMAT) throw new Error(`The file is no export of this page: it has no format "${FORMAT}".`);
  if (file.version !== 1) throw new Error(`The file is of version ${file.version}, this page reads version 1.`);
  return list(file.conversations, "conversations", checked);
}

// A conversation of known fields and right types, or an error that names the first wrong one.
export function checked(raw, path = "conversation") {
  object(raw, path);
  return {
    id: /^[\w-]{1,64}$/.test(raw.id) ? raw.id : newId(),
    title: text(raw.title, `${path}.title`).slice(0, 200),
    created: number(raw.created, `${path}.created`),
    updated: number(raw.updated, `${path}.updated`),
    settings: settings(raw.settings, `${path}.settings`),
    messages: list(raw.messages, `${path}.messages`, message),
    undo: list(raw.undo, `${path}.undo`, edit),
    redo: list(raw.redo, `${path}.redo`, edit),
  };
}

export function settings(raw, path = "settings") {
  object(raw, path);
  const read = { ...defaults() };
  for (const name of ["model", "stop", "system", "tools"]) read[name] = text(raw[name], `${path}.${name}`);
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    read[name] = optional(raw[name], `${path}.${name}`, number);
  }
  read.effort = optional(raw.effort, `${path}.effort`, effort);
  return read;
}

function effort(raw, path) {
  if (!EFFORTS.includes(raw)) fail(path, `one of ${EFFORTS.join(", ")}`);
  return raw;
}

function message(raw, path) {
  object(raw, path);
  const content = text(raw.content, `${path}.content`);
  if (raw.role === "user") return { role: "user", content };
  if (raw.role === "tool") {
    return { role: "tool", tool_call_id: text(raw.tool_call_id, `${path}.tool_call_id`), content };
  }
  if (raw.role !== "assistant") fail(`${path}.role`, "user, assistant or tool");
  return {
    role: "assistant",
    content,
    reasoning_content: text(raw.reasoning_content, `${path}.reasoning_content`),
    tool_calls: list(raw.tool_calls, `${path}.tool_calls`, toolCall),
    finish: optional(raw.finish, `${path}.finish`, text),
    error: optional(raw.error, `${path}.error`, text),
    usage: optional(raw.usage, `${path}.usage`, usage),
    seconds: optional(raw.seconds, `${path}.seconds`, number),
  };
}

function toolCall(raw, path) {
  object(raw, path);
  object(raw.function, `${path}.function`);
  const { name, arguments: given } = raw.function;
  return {
    id: text(raw.id, `${path}.id`),
    type: "function",
    function: {
      name: text(name, `${path}.function.name`),
      arguments: text(given, `${path}.function.arguments`),
    },
  };
}

function usage(raw, path) {
  object(raw, path);
  return {
    prompt_tokens: number(raw.prompt_tokens, `${path}.prompt_tokens`),
    completion_tokens: number(raw.completion_tokens, `${path}.completion_tokens`),
    prompt_cache_hit_tokens: optional(raw.prompt_cache_hit_tokens, `${path}.prompt_cache_hit_tokens`, number),
    not_reused_because: optional(raw.not_reused_because, `${path}.not_reused_because`, text),
  };
}

function edit(raw, path) {
  object(raw, path);
  const at = number(raw.at, `${path}.at`);
  if (!Number.isInteger(at) || at < 0) fail(`${path}.at`, "an index");
  return { at, tail: list(raw.tail, `${path}.tail`, message) };
}

function list(value, path, read) {
  if (!Array.isArray(value)) fail(path, "a list");
  if (value.length > MAX_MESSAGES) fail(path, `at most ${MAX_MESSAGES} long`);
  return value.map((item, i) => read(item, `${path}[${i}]`));
}

function object(value, path) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) fail(path, "an object");
}

function text(value, path) {
  if (typeof value !== "string") fail(path, "a text");
  return value;
}

function number(value, path) {
  if (!Number.isFinite(value)) fail(path, "a number");
  return value;
}

const optional = (value, path, read) => (value === null || value === undefined ? null : read(value, path));

function fail(path, wanted) {
  throw new Error(`${path} must be ${wanted}.`);
}
