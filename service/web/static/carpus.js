// Keeps a page live without losing scroll, filter or focus, and shows times in the reader's own zone. The pages work without it.
"use strict";

function localTimes(root) {
  const now = new Date();
  for (const element of root.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    const today = at.toDateString() === now.toDateString();
    element.title = at.toISOString();
    const exact = element.closest(".timeline") ? "2-digit" : undefined; // steps lie seconds apart
    element.textContent = today
      ? at.toLocaleTimeString()
      : at.toLocaleDateString(undefined, { day: "numeric", month: "short" }) +
        " " + at.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: exact });
  }
}

function keepLive(part) {
  let shown = part.innerHTML;
  async function refresh() {
    if (!document.hidden && !part.contains(document.activeElement) && !String(document.getSelection())) {
      try {
        const answer = await fetch(part.dataset.refresh + location.search, { headers: { "X-Refresh": "1" } });
        if (answer.status === 401) return location.reload();
        document.body.classList.toggle("stale", !answer.ok);
        if (answer.ok) {
          const text = await answer.text();
          if (text !== shown) {
            shown = text;
            const across = [...part.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
            part.innerHTML = text; // made and escaped by our own templates
            part.querySelectorAll(".scroll").forEach((box, i) => (box.scrollLeft = across[i] || 0));
            localTimes(part);
          }
        }
      } catch {
        document.body.classList.add("stale");
      }
    }
    setTimeout(refresh, 1000 * part.dataset.seconds);
  }
  setTimeout(refresh, 1000 * part.dataset.seconds);
}

function themeButton(button) {
  const root = document.documentElement;
  const dark = () => root.dataset.theme === "dark" || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const label = () => (button.textContent = dark() ? "Light" : "Dark");
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
    label();
  });
  label();
}

const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;
localTimes(document);
document.querySelectorAll("#zone").forEach((part) => {
  part.textContent = "Times of " + Intl.DateTimeFormat().resolvedOptions().timeZone; // until then the pages say UTC, and mean it
});
document.querySelectorAll("[data-refresh]").forEach(keepLive);
document.querySelectorAll("#theme").forEach(themeButton);
