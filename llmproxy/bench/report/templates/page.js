"use strict";
(() => {
  const PAGE = 50;
  const root = document.documentElement;
  const by = (id) => document.getElementById(id);

  const themes = ["auto", "light", "dark"];
  const theme = by("theme");
  const setTheme = (name) => {
    if (name === "auto") root.removeAttribute("data-theme");
    else root.setAttribute("data-theme", name);
    theme.querySelector("span").textContent = name;
    try { localStorage.setItem("llmproxy-theme", name); } catch { /* a file's page may be refused storage */ }
  };
  let kept = null;
  try { kept = localStorage.getItem("llmproxy-theme"); } catch { /* the same */ }
  setTheme(themes.includes(kept) ? kept : "auto");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const now = theme.querySelector("span").textContent;
    setTheme(themes[(themes.indexOf(now) + 1) % themes.length]);
  });

  const list = by("conversations");
  const all = [...list.querySelectorAll(":scope > details")];
  if (!all.length) return;
  document.querySelector(".controls").hidden = false;
  const texts = new Map();
  const text = (item) => {
    if (!texts.has(item)) texts.set(item, item.textContent.toLowerCase());
    return texts.get(item);
  };
  const worth = (item, target) => {
    const found = item.dataset.of.split(" ").find((part) => part.startsWith(target + ":"));
    return found ? Number(found.split(":")[1]) : -1;
  };
  let limit = PAGE;

  const update = () => {
    const order = by("order").value, show = by("show").value;
    const wanted = by("find").value.trim().toLowerCase();
    const sorted = [...all];
    if (order === "number") sorted.sort((a, b) => a.dataset.number - b.dataset.number);
    else if (order !== "") sorted.sort((a, b) => worth(b, order) - worth(a, order));
    let matching = 0;
    for (const item of sorted) {
      const matches = (show === "all" || item.dataset.is.split(" ").includes(show))
        && (!wanted || text(item).includes(wanted));
      item.hidden = !matches || matching >= limit;
      if (matches) matching += 1;
    }
    if (sorted.some((item, at) => item !== list.children[at])) list.append(...sorted);
    const shown = Math.min(matching, limit);
    by("matches").textContent = matching === all.length && shown === all.length
      ? `${all.length} prompts` : `${shown} shown of ${matching} that match, ${all.length} in all`;
    by("more").hidden = matching <= limit;
    by("more").textContent = `Show ${Math.min(PAGE, matching - limit)} more`;
  };

  let typing;
  by("find").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => { limit = PAGE; update(); }, 150);
  });
  for (const id of ["show", "order"]) by(id).addEventListener("change", () => { limit = PAGE; update(); });
  by("more").addEventListener("click", () => { limit += PAGE; update(); });
  by("removed").addEventListener("change", (event) => root.classList.toggle("with-removed", event.target.checked));
  by("unfold").addEventListener("click", (event) => {
    const shown = all.filter((item) => !item.hidden);
    const open = shown.some((item) => !item.open);
    for (const item of shown) item.open = open;
    event.target.textContent = open ? "Close all shown" : "Open all shown";
  });
  const reveal = () => {
    const item = by(location.hash.slice(1));
    if (!item || !all.includes(item)) return;
    item.hidden = false;
    item.open = true;
    item.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  addEventListener("beforeprint", () => {
    for (const item of all) if (!item.hidden) item.open = true;
  });
  update();
  reveal();
})();
