"use strict";
(() => {
  document.documentElement.classList.add("script");

  // Where the reader is, in the table of contents.
  const links = new Map([...document.querySelectorAll("nav li a")].map((a) => [a.hash.slice(1), a]));
  const seen = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const e of entries) seen[e.isIntersecting ? "add" : "delete"](e.target);
    const now = [...seen].sort((a, b) => b.compareDocumentPosition(a) & 2 ? -1 : 1).pop();
    for (const [id, a] of links) now && id === now.getAttribute("aria-labelledby") ? a.setAttribute("aria-current", "true") : a.removeAttribute("aria-current");
  }, { rootMargin: "0px 0px -65% 0px" });
  for (const part of document.querySelectorAll("main section, main .stage")) if (links.has(part.getAttribute("aria-labelledby"))) watcher.observe(part);

  // A picture opens large; any click, or Escape, closes it.
  const dialog = document.querySelector("dialog");
  document.querySelector("main").addEventListener("click", (event) => {
    const image = event.target.closest(".pair img, .strip img");
    if (!image || !dialog.showModal) return;
    dialog.querySelector("img").src = image.src;
    dialog.querySelector("img").alt = image.alt;
    dialog.querySelector("p").textContent = image.alt;
    dialog.showModal();
  });
  dialog.addEventListener("click", () => dialog.close());

  // On paper nothing can be unfolded.
  const closed = new Set();
  addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("details:not([open])")) { closed.add(d); d.open = true; } });
  addEventListener("afterprint", () => { for (const d of closed) d.open = false; closed.clear(); });
})();
