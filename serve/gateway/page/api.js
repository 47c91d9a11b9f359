// Requests to the server that the page came from, with the key of this tab.
import { loadOfTab, saveOfTab } from "./storage.js";

let key = loadOfTab("key", "");
export const currentKey = () => key;
export function setKey(value) { key = value; saveOfTab("key", value) }

const headers = () => ({ "content-type": "application/json", ...(key && { authorization: "Bearer " + key }) });

/** The JSON of a route with its status; status 0 where the server cannot be reached. */
export async function read(route) {
  try {
    const response = await fetch(route, { headers: headers() });
    return { status: response.status, value: await response.json() };
  } catch { return { status: 0, value: {} } }
}

/** The connection was lost, before or in the middle of a reply. Its message is a name in texts.js. */
class ConnectionLost extends Error {}

/** What fetch or read gives. They report a failure of the network as a TypeError, which is a fault in a program elsewhere. */
async function received(promise) {
  try { return await promise } catch (error) { throw error instanceof TypeError ? new ConnectionLost("connection_lost") : error }
}

/** Requests a reply, and calls onChunk with each chunk of it. Where the connection is lost after some text, as when the replica that
 *  wrote it ends, a second request goes on from there, once, with as many tokens as max_tokens leaves. Throws an Error whose message
 *  is the server's, or a name in texts.js; returns the number of turns that the server left out of the prompt. */
export async function generate(body, signal, onChunk) {
  const begun = { text: "", tokens: 0 };
  try { return await requestReply(body, signal, onChunk, begun) } catch (error) {
    if (!(error instanceof ConnectionLost) || !begun.text) throw error;
    const messages = [...body.messages, { role: "assistant", content: begun.text }];
    return requestReply({ ...body, messages, max_tokens: body.max_tokens - begun.tokens }, signal, onChunk, { text: "", tokens: 0 });
  }
}

async function requestReply(body, signal, onChunk, reply) { // reply: {text, tokens}, which grow
  let finished = false;
  const sent = { ...body, stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
  const response = await received(fetch("v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(sent), signal }));
  if (!response.ok) throw new Error(response.status === 401 ? "key_needed" : await errorOf(response));
  try {
    for await (const chunk of chunksOf(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      const choice = chunk.choices?.[0], text = choice?.delta?.content ?? "";
      reply.text += text;
      reply.tokens = chunk.usage?.completion_tokens || reply.tokens + (text ? 1 : 0); // as the server counts, else chunks with text
      finished ||= Boolean(choice?.finish_reason);
      onChunk(chunk);
    }
    if (!finished) throw new ConnectionLost("incomplete");
  } catch (error) { // of a reply that is complete, nothing is lost
    if (!(error instanceof ConnectionLost) || !(finished || reply.tokens >= body.max_tokens)) throw error;
    if (!finished) onChunk({ choices: [{ finish_reason: "length" }] });
  }
  return Number(response.headers.get("x-rayse-turns-left-out") ?? 0);
}

async function* chunksOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "";;) {
    const { done, value } = await received(reader.read());
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) if (event.startsWith("data: ") && event !== "data: [DONE]") yield JSON.parse(event.slice(6));
  }
}

const errorOf = async (response) => (await response.json().catch(() => null))?.error?.message ?? "HTTP " + response.status;

/** Stores feedback on a reply. With a receipt it works on any server of the store, also after a restart.
 *  Returns an empty text, or why it was not stored. */
export async function sendFeedback(message, prompt) {
  const reply = message.receipt ? { receipt: message.receipt, prompt, reply: message.content } : { reply_id: message.replyId };
  const further = { ...(message.correction && { correction: message.correction }), ...(message.report && { report: message.report }) };
  try {
    let response = await post({ ...reply, ...further, thumb: message.thumb, comment: message.comment ?? "" });
    if (response.status === 400 && message.receipt) // an earlier message was edited since: its digest in the receipt is all there is
      response = await post({ receipt: message.receipt, ...further, thumb: message.thumb, comment: message.comment ?? "" });
    return response.ok ? "" : await errorOf(response);
  } catch { return "connection_lost" }
}

const post = (body) => fetch("feedback", { method: "POST", headers: headers(), body: JSON.stringify(body) });
