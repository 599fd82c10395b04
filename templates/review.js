"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const form = byId("filter"), matches = byId("matches"), nothing = byId("nothing");
  const domains = Array.from(document.querySelectorAll("details.domain"), (element) => ({
    element,
    shown: true,
    words: element.dataset.words,
    state: element.dataset.state,
    ids: element.dataset.ids,
    attention: element.dataset.attention === "yes",
  }));
  const number = new Intl.NumberFormat("en");

  function filter() {
    const words = byId("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const state = byId("state").value, id = byId("id").value;
    let count = 0;
    for (const each of domains) {
      const shown =
        (!state || (state === "attention" ? each.attention : each.state === state)) &&
        (!id || each.ids.includes(` ${id} `)) &&
        words.every((word) => each.words.includes(word));
      count += shown;
      if (shown !== each.shown) each.element.hidden = !(each.shown = shown);
    }
    matches.value = `${number.format(count)} of ${number.format(domains.length)} shown`;
    nothing.hidden = count > 0 || domains.length === 0;
  }

  let waiting = 0;
  for (const kind of ["input", "change"]) {
    form.addEventListener(kind, () => {
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(filter);
    });
  }
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());
  byId("open").addEventListener("click", () => {
    for (const each of domains) if (each.shown) each.element.open = true;
  });
  byId("close").addEventListener("click", () => {
    for (const each of domains) each.element.open = false;
  });
  // older browsers do not open what a link leads into
  addEventListener("hashchange", () => {
    const around = byId(location.hash.slice(1))?.closest("details");
    if (around && !around.open) {
      around.open = true;
      byId(location.hash.slice(1)).scrollIntoView();
    }
  });
  // older browsers print only what is open
  if (!CSS.supports("selector(::details-content)")) {
    let opened = [];
    addEventListener("beforeprint", () => {
      opened = domains.filter((each) => each.shown && !each.element.open);
      for (const each of opened) each.element.open = true;
    });
    addEventListener("afterprint", () => {
      for (const each of opened) each.element.open = false;
    });
  }
  form.hidden = false;
  filter();
})();
