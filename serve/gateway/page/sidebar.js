// The list of chats beside the messages; on a phone a panel that opens over them.
import { make } from "./markdown.js";
import { text } from "./texts.js";

const $ = (id) => document.getElementById(id);
let renamed = ""; // id of the chat whose name is being changed

/** Renders the list. act: functions {open, rename, remove} of a chat. */
export function render(chats, currentId, act) {
  $("chats").replaceChildren(...chats.map((chat) => chat.id === renamed ? nameForm(chat, currentId, chats, act) : entry(chat, currentId, chats, act)));
  $("no_chats").hidden = chats.length > 0;
}

function entry(chat, currentId, chats, act) {
  const title = chat.title || text("untitled");
  const open = make("button", { type: "button", className: "open", textContent: title, title, onclick: () => { setOpen(false); act.open(chat) } });
  if (chat.id === currentId) open.setAttribute("aria-current", "true");
  const rename = make("button", { type: "button", className: "rename", textContent: "✎", title: text("rename"), onclick: () => { renamed = chat.id; render(chats, currentId, act); $("chats").querySelector("input").select() } });
  rename.setAttribute("aria-label", `${text("rename")}: ${title}`);
  const remove = make("button", { type: "button", className: "remove", textContent: "×", title: text("delete"), onclick: () => { if (confirm(text("confirm_delete") + title)) act.remove(chat) } });
  remove.setAttribute("aria-label", `${text("delete")}: ${title}`);
  return make("li", { className: chat.id === currentId ? "current" : "" }, open, rename, remove);
}

function nameForm(chat, currentId, chats, act) {
  const input = make("input", { type: "text", value: chat.title, maxLength: 200 });
  input.setAttribute("aria-label", text("chat_name"));
  const done = (name) => { if (renamed !== chat.id) return; renamed = ""; if (name) act.rename(chat, name); else render(chats, currentId, act) };
  const form = make("form", {}, input);
  form.onsubmit = (event) => { event.preventDefault(); done(input.value.trim()) };
  input.onkeydown = (event) => { if (event.key === "Escape") { event.stopPropagation(); done("") } };
  input.onblur = () => done(input.value.trim());
  return make("li", {}, form);
}

export function setOpen(isOpen) { // on a wide window the list is always there
  document.body.classList.toggle("menu-open", isOpen);
  $("menu").setAttribute("aria-expanded", String(isOpen));
}

export function connect() {
  $("menu").onclick = () => { setOpen(true); $("new_chat").focus() };
  $("close_menu").onclick = () => { setOpen(false); $("menu").focus() };
  $("backdrop").onclick = () => setOpen(false);
}
