"use strict";
// What every page has: its data, its messages, its theme.

const $ = id => document.getElementById(id), css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const errors = [], page = JSON.parse($("scene").textContent);
$("scene").remove();  // its text may be as large as all data

function fail(text) {
  errors.push(text);
  $("message").textContent = text;
  $("message").hidden = false;
}
window.addEventListener("error", event => fail(event.message));
window.addEventListener("unhandledrejection", event => fail(String(event.reason)));

function theme(dark) {
  document.documentElement.classList.toggle("dark", dark);
  $("theme").textContent = dark ? "Light" : "Dark";
}
const isDark = () => document.documentElement.classList.contains("dark"), likesDark = () => window.matchMedia("(prefers-color-scheme: dark)").matches;
