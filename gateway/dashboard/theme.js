// theme: light or dark as the browser says, or as it was chosen here. Runs before the first paint, so nothing flashes; the one file that is no
// module, for modules come later. The choice is the only thing that outlives the tab, and says nothing about anybody.
(() => {
  const wish = matchMedia("(prefers-color-scheme: dark)"), words = ["light", "dark"];
  let chosen = null;
  try { chosen = localStorage.getItem("weft.theme"); } catch { /* storage may be forbidden: then the browser's own wish holds */ }
  const show = () => { document.documentElement.dataset.theme = words.includes(chosen) ? chosen : words[Number(wish.matches)]; };
  wish.addEventListener("change", () => { show(); document.dispatchEvent(new Event("weft:theme")); });
  document.addEventListener("weft:choose", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("weft.theme", chosen); } catch { /* it holds for this tab */ }
    show();
    document.dispatchEvent(new Event("weft:theme"));
  });
  show();
})();
