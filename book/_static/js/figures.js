// Below each figure: save the picture, copy the figure's address.
(() => {
  "use strict";
  const KINDS = { "image/svg+xml": "svg", "image/webp": "webp", "image/png": "png" };
  for (const figure of document.querySelectorAll("figure.mlbook-figure[id]")) {
    const picture = figure.querySelector("img");
    const tools = document.createElement("span");
    tools.className = "figure-tools";
    const save = document.createElement("a");
    const kind = picture.src.slice(5, picture.src.search(/[;,]/));
    save.textContent = "save";
    save.href = "#" + figure.id;
    save.setAttribute("role", "button");
    save.setAttribute("aria-label", `Save ${figure.id.replace("-", " ")}`);
    save.addEventListener("click", async (event) => {
      event.preventDefault();
      const blob = await (await fetch(picture.src)).blob();
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = `${figure.id}.${KINDS[kind] || "png"}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
    const copy = document.createElement("a");
    copy.textContent = "copy link";
    copy.href = "#" + figure.id;
    copy.setAttribute("role", "button");
    copy.setAttribute("aria-label", `Copy the link to ${figure.id.replace("-", " ")}`);
    copy.addEventListener("click", async (event) => {
      event.preventDefault();
      const address = location.href.split("#")[0] + "#" + figure.id;
      try {
        await navigator.clipboard.writeText(address);
        copy.textContent = "copied";
      } catch {
        location.hash = figure.id; // without permission the address bar has it
        copy.textContent = "in the address bar";
      }
      setTimeout(() => (copy.textContent = "copy link"), 2000);
    });
    tools.append(save, copy);
    figure.querySelector("figcaption").append(tools);
  }
})();
