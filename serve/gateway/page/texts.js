// The page's words in both languages, and which of the two is displayed.
import { load, save } from "./storage.js";

const TEXTS = {
  en: {
    new_chat: "New chat", chats: "Chats", menu: "Chats", close_menu: "Close the list of chats", rename: "Rename", delete: "Delete", untitled: "New chat", no_chats: "Chats are kept in this browser only.",
    confirm_delete: "Delete this chat? It cannot be restored: ", chat_name: "Name of the chat", earlier: "Show earlier messages", not_kept: "This browser keeps no chats: ",
    settings: "Settings", welcome: "Ask something", hint: "Replies are streamed as they are generated. A thumb tells us how good they are.", skip: "Skip to the message",
    message: "Your message", send: "Send", stop: "Stop", disclaimer: "The model can be wrong. Check what matters.", model: "Model", conversation: "Conversation",
    system: "System prompt", temperature: "Temperature", top_p: "Top-p", top_k: "Top-k", off: "off", repetition_penalty: "Repetition penalty",
    max_tokens: "Maximum reply length, tokens", seed: "Seed (empty: another reply each time)", key: "Key, if the server needs one",
    defaults: "Defaults", close: "Done", copy: "Copy", copied: "Copied", copy_code: "Copy code", regenerate: "Regenerate", edit: "Edit", resend: "Send again", cancel: "Cancel",
    edit_hint: "The messages after this one are replaced.", up: "Good reply", down: "Bad reply",
    comment: "What was good or bad? (optional)", correction: "What would be a better reply? (optional)", send_comment: "Send", stored: "Stored, thank you.",
    stopped: "Stopped.", interrupted: "The page was closed before the reply was complete.", length_limit: "The reply reached its maximum length.", declined: "Declined by the guard.",
    connection_lost: "The connection was lost.", incomplete: "The reply ended early.", key_needed: "The server needs a key: set it in Settings.",
    turns_left_out: "Earlier turns were left out: the conversation exceeds the model's context.",
    low_quality: "Low scores of this reply: ", relevance: "relevance", safety: "safety", fluency: "fluency",
    sources: "Sources", score: "score", image: "image", rows_left_out: "more rows; Copy has them all", generating: "The model is writing.", not_stored: "Not stored: ",
    user: "You", assistant: "Model", ready: "ready", starting: "starting", unreachable: "not reachable",
    light: "Light", dark: "Dark", auto: "Auto", theme: "Colours", other_language: "中文", switch_language: "用中文显示",
  },
  zh: {
    new_chat: "新对话", chats: "对话", menu: "对话", close_menu: "关闭对话列表", rename: "重命名", delete: "删除", untitled: "新对话", no_chats: "对话只保存在这个浏览器里。",
    confirm_delete: "删除这个对话吗？删除后无法恢复：", chat_name: "对话名称", earlier: "显示更早的消息", not_kept: "这个浏览器不保存对话：",
    settings: "设置", welcome: "问点什么吧", hint: "回答会边写边显示。点一下拇指，告诉我们好不好。", skip: "跳到消息输入框",
    message: "你的消息", send: "发送", stop: "停止", disclaimer: "模型可能出错，重要的内容请核对。", model: "模型", conversation: "对话内容",
    system: "系统提示词", temperature: "温度", top_p: "Top-p", top_k: "Top-k", off: "关", repetition_penalty: "重复惩罚",
    max_tokens: "回答最长词元数", seed: "随机种子（留空则每次不同）", key: "密钥（服务器需要时）",
    defaults: "恢复默认", close: "完成", copy: "复制", copied: "已复制", copy_code: "复制代码", regenerate: "重新生成", edit: "编辑", resend: "重新发送", cancel: "取消",
    edit_hint: "这条之后的消息会被替换。", up: "回答得好", down: "回答得不好",
    comment: "好在哪里，或哪里不好？（可不填）", correction: "更好的回答是什么？（可不填）", send_comment: "提交", stored: "已保存，谢谢。",
    stopped: "已停止。", interrupted: "回答还没写完，页面就关闭了。", length_limit: "回答到了最长长度。", declined: "已被安全检查拒绝。",
    connection_lost: "连接中断了。", incomplete: "回答提前结束了。", key_needed: "服务器需要密钥：请在设置里填写。",
    turns_left_out: "较早的对话已略去：超出了模型的上下文长度。",
    low_quality: "这条回答得分较低：", relevance: "相关性", safety: "安全性", fluency: "流畅度",
    sources: "来源", score: "得分", image: "图片", rows_left_out: "行没有显示；复制可得到全部", generating: "模型正在回答。", not_stored: "没有保存：",
    user: "你", assistant: "模型", ready: "就绪", starting: "正在启动", unreachable: "连接不上",
    light: "浅色", dark: "深色", auto: "自动", theme: "配色", other_language: "English", switch_language: "Show in English",
  },
};

let language = load("language", navigator.language.startsWith("zh") ? "zh" : "en");

export const text = (name) => TEXTS[language]?.[name] ?? TEXTS.en[name] ?? name; // other texts, such as a server's message, stay as they are
export const languageTag = () => language === "zh" ? "zh-CN" : "en";

export function switchLanguage() {
  language = language === "zh" ? "en" : "zh";
  save("language", language);
}
