/* Theme, print, and the start. */

const darkSystem = matchMedia("(prefers-color-scheme: dark)");

const isDark = () => (document.documentElement.dataset.theme ?? (darkSystem.matches ? "dark" : "light")) === "dark";

function nameTheme() {
  byId("theme").textContent = isDark() ? "Light" : "Dark";
}

function startTheme() {
  nameTheme();
  byId("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
    drawAll();
  });
  darkSystem.addEventListener("change", () => { nameTheme(); drawAll(); });
  printing.addEventListener("change", () => {
    for (const box of document.querySelectorAll("details")) box.open = printing.matches;
    drawAll();
  });
}

startTheme();
startTables();
startRollouts();
startCharts();
