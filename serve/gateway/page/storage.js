// Small choices of the user (localStorage), and what lasts as long as the tab (sessionStorage).
// Private windows may forbid both: choices then last as long as the page.

const get = (area, name, fallback) => { try { return JSON.parse(area().getItem("rayse." + name)) ?? fallback } catch { return fallback } };
const set = (area, name, value) => { try { area().setItem("rayse." + name, JSON.stringify(value)) } catch { /* kept in memory only */ } };
const browser = () => localStorage, tab = () => sessionStorage; // functions: even naming them may throw

export const load = (name, fallback) => get(browser, name, fallback);
export const save = (name, value) => set(browser, name, value);
export const loadOfTab = (name, fallback) => get(tab, name, fallback);
export const saveOfTab = (name, value) => set(tab, name, value);
