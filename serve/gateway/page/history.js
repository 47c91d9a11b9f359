// Chats and their messages in this browser (IndexedDB), one record a message, so that a long chat is never written whole.
//
//   chat: {id, title, changed}      message: {id, chat, role, content, …}      ids sort by time
//
// Without IndexedDB (private windows of some browsers) all is kept in memory, and `problem` says why.

export let problem = "";
let database = null;
let chats = new Map();
const opened = new Map(); // chat's id → its messages; each list is the one that the page shows
const channel = "BroadcastChannel" in self ? new BroadcastChannel("rayse") : null;
let clock = 0;

/** An id that sorts after all earlier ones of this page. */
export function newId() {
  clock = Math.max(Date.now(), clock + 1);
  return clock.toString(36).padStart(9, "0") + Array.from(crypto.getRandomValues(new Uint8Array(5)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Opens the database. onChange(chat's id): another tab changed a chat. */
export async function open(onChange) {
  try {
    database = await new Promise((resolve, reject) => {
      const request = indexedDB.open("rayse", 1);
      request.onupgradeneeded = () => {
        request.result.createObjectStore("chats", { keyPath: "id" });
        request.result.createObjectStore("messages", { keyPath: "id" }).createIndex("chat", "chat");
      };
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    await readChats();
  } catch (error) { problem = error.message }
  if (channel) channel.onmessage = async ({ data }) => { await readChats(); opened.delete(data); onChange(data) };
}

async function readChats() {
  if (database) chats = new Map((await transact("readonly", (stores) => stores.chats.getAll())).map((chat) => [chat.id, chat]));
}

/** Runs work({chats, messages}) in one transaction; resolves with its request's result once all is on disk. */
function transact(mode, work) {
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(["chats", "messages"], mode);
    const request = work({ chats: transaction.objectStore("chats"), messages: transaction.objectStore("messages") });
    transaction.oncomplete = () => resolve(request?.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

async function write(chatId, work) { // a full disk must not stop a chat: the page says that it is not kept
  if (!database) return;
  try { await transact("readwrite", work); channel?.postMessage(chatId) } catch (error) { problem = error?.message ?? "" }
}

/** All chats, the one that was changed last first. */
export const list = () => [...chats.values()].sort((one, other) => other.changed - one.changed);

export const find = (id) => chats.get(id);

/** The messages of a chat, oldest first. */
export async function messagesOf(id) {
  if (!opened.has(id)) {
    const stored = database ? await transact("readonly", (stores) => stores.messages.index("chat").getAll(id)) : [];
    if (!opened.has(id)) opened.set(id, stored); // another call may have read them meanwhile
  }
  return opened.get(id);
}

/** A new chat, kept from its first message on. */
export function create() {
  const chat = { id: newId(), title: "", changed: Date.now() };
  opened.set(chat.id, []);
  return chat;
}

export async function saveChat(chat) {
  chats.set(chat.id, chat);
  await write(chat.id, (stores) => stores.chats.put(chat));
}

/** Writes a message, new or changed, and moves its chat to the top of the list. */
export async function saveMessage(chat, message) {
  chat.changed = Date.now();
  chats.set(chat.id, chat);
  await write(chat.id, (stores) => { stores.messages.put({ ...message, chat: chat.id }); stores.chats.put(chat) });
}

/** Removes the messages of a chat from an index on. */
export async function truncate(chat, messages, index) {
  const removed = messages.splice(index);
  await write(chat.id, (stores) => { for (const message of removed) stores.messages.delete(message.id) });
}

export async function remove(chat) {
  const messages = await messagesOf(chat.id);
  chats.delete(chat.id);
  opened.delete(chat.id);
  await write(chat.id, (stores) => { for (const message of messages) stores.messages.delete(message.id); stores.chats.delete(chat.id) });
}
