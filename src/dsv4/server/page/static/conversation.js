// A conversation is a value: messages, settings, and what edits replaced. No page, no network here.
//
// An edit at i:  undo ← (i, messages[i…]),  messages ← messages[…i] + new.  Undo and redo swap tails.

export const EFFORTS = ["none", "low", "high", "max"];
const KEPT_EDITS = 8;

export const defaults = () => ({
  model: "",
  effort: null, // the server's own, as for all that is null
  temperature: null,
  top_p: null,
  max_tokens: null,
  seed: null,
  stop: "",
  system: "",
  tools: "",
});

export function fresh(settings = defaults()) {
  const now = Date.now();
  return {
    id: newId(),
    title: "",
    created: now,
    updated: now,
    settings: { ...settings, system: "", tools: "" },
    messages: [],
    undo: [],
    redo: [],
  };
}

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const reply = () => ({
  role: "assistant",
  content: "",
  reasoning_content: "",
  tool_calls: [],
  finish: null,
  error: null,
  usage: null,
  seconds: null,
});

export function title(conversation) {
  if (conversation.title) return conversation.title;
  const first = conversation.messages.find((message) => message.role === "user");
  const line = first?.content.trim().split("\n")[0] ?? "";
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line || "New conversation";
}

// What follows index `at` is replaced by `messages`; it can be had back.
export function branch(conversation, at, messages) {
  const tail = conversation.messages.splice(at);
  if (!tail.every(isEmpty)) conversation.undo.push({ at, tail });
  if (conversation.undo.length > KEPT_EDITS) conversation.undo.shift();
  conversation.redo = [];
  conversation.messages.push(...messages);
}

// A reply that never began, say one that was refused.
function isEmpty(message) {
  return message.role === "assistant" && !message.content && !message.reasoning_content && !message.tool_calls.length;
}

function swap(conversation, from, to) {
  const edit = conversation[from].pop();
  if (!edit) return;
  conversation[to].push({ at: edit.at, tail: conversation.messages.splice(edit.at) });
  conversation.messages.push(...edit.tail);
}

export const undo = (conversation) => swap(conversation, "undo", "redo");
export const redo = (conversation) => swap(conversation, "redo", "undo");

// Calls of the reply at `at` and the results that follow it: [{call, result or undefined}].
export function answers(conversation, at) {
  const results = [];
  for (const message of conversation.messages.slice(at + 1)) {
    if (message.role !== "tool") break;
    results.push(message);
  }
  return conversation.messages[at].tool_calls.map((call) => ({
    call,
    result: results.find((message) => message.tool_call_id === call.id),
  }));
}

// Does the last reply wait for results that a person writes?
export function awaitsResults(conversation) {
  const at = conversation.messages.length - 1;
  const last = conversation.messages[at];
  return last?.role === "assistant" && last.finish === "tool_calls" && last.tool_calls.length > 0;
}

// Why a reply that was cut cannot be continued, or "".
export function whyNotContinued(conversation) {
  const last = conversation.messages.at(-1);
  if (!last.content && !last.reasoning_content) return "nothing was said yet";
  if (last.tool_calls.length) return "it was cut inside a tool call";
  const used = conversation.messages.some((message) => message.role === "tool");
  return used || parseTools(conversation.settings.tools).length ? "tools are in use" : "";
}

// The request's body; `continues`: the last reply is a prefix that the model goes on from.
export function requestBody(conversation, continues = false) {
  const { settings } = conversation;
  const messages = settings.system ? [{ role: "system", content: settings.system }] : [];
  conversation.messages.forEach((message, at) => {
    const sent = sentForm(conversation, message, at);
    if (sent) messages.push(sent);
  });
  if (continues) messages.at(-1).prefix = true;
  const body = { model: settings.model, messages };
  if (settings.effort === "none") body.thinking = { type: "disabled" };
  else if (settings.effort) Object.assign(body, { thinking: { type: "enabled" }, reasoning_effort: settings.effort });
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    if (settings[name] !== null) body[name] = settings[name];
  }
  const stop = stopStrings(settings.stop);
  if (stop.length) body.stop = stop;
  const tools = parseTools(settings.tools);
  if (tools.length) body.tools = tools;
  return body;
}

// A message as the API has it; null for a reply that never began and for results of no call.
function sentForm(conversation, message, at) {
  if (message.role === "user") return { role: "user", content: message.content };
  if (message.role === "tool") {
    let caller = at;
    while (conversation.messages[caller]?.role === "tool") caller -= 1;
    if (conversation.messages[caller]?.role !== "assistant" || !answered(conversation, caller)) return null;
    return { role: "tool", tool_call_id: message.tool_call_id, content: message.content };
  }
  if (isEmpty(message)) return null;
  const calls = answered(conversation, at) ? message.tool_calls : [];
  const sent = { role: "assistant", content: message.content };
  if (message.reasoning_content) sent.reasoning_content = message.reasoning_content;
  if (calls.length) sent.tool_calls = calls;
  return sent;
}

const answered = (conversation, at) => answers(conversation, at).every(({ result }) => result);

// Lines of the settings' field, escapes read.
export function stopStrings(text) {
  const escapes = { n: "\n", t: "\t", r: "\r", "\\": "\\" };
  return text
    .split("\n")
    .filter(Boolean)
    .map((line) => line.replace(/\\([ntr\\])/g, (_, letter) => escapes[letter]));
}

// Tools of the settings' field, bare functions wrapped. Throws with the reason in words.
export function parseTools(text) {
  if (!text.trim()) return [];
  let tools;
  try {
    tools = JSON.parse(text);
  } catch (error) {
    throw new Error(`The tools are not JSON: ${error.message}`);
  }
  if (!Array.isArray(tools)) throw new Error("The tools must be a JSON list: [ … ].");
  return tools.map((tool, i) => {
    const whole = tool?.function ? tool : { type: "function", function: tool };
    if (typeof whole.function?.name !== "string") throw new Error(`Tool ${i + 1} has no name.`);
    return whole;
  });
}

// One streamed chunk into a reply.
export function accept(message, chunk) {
  if (chunk.usage) message.usage = keptUsage(chunk.usage, chunk.dsv4);
  for (const { delta, finish_reason: finish } of chunk.choices ?? []) {
    message.reasoning_content += delta?.reasoning_content ?? "";
    message.content += delta?.content ?? "";
    for (const piece of delta?.tool_calls ?? []) {
      const call = (message.tool_calls[piece.index] ??= {
        id: piece.id ?? `call_${piece.index}`,
        type: "function",
        function: { name: "", arguments: "" },
      });
      call.function.name += piece.function?.name ?? "";
      call.function.arguments += piece.function?.arguments ?? "";
    }
    if (finish) message.finish = finish;
  }
}

const keptUsage = (usage, own) => ({
  prompt_tokens: usage.prompt_tokens,
  completion_tokens: usage.completion_tokens,
  prompt_cache_hit_tokens: usage.prompt_cache_hit_tokens ?? usage.prompt_tokens_details?.cached_tokens ?? null,
  not_reused_because: own?.not_reused_because ?? null,
});
