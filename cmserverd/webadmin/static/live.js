// Keeps the region #live of a page up to date: the server tells that something changed, and htmx fetches it anew.
// Without this, pages are what they were when they were opened, and everything else works.
"use strict";

(() => {
  const region = document.getElementById("live");
  if (!region || !region.dataset.stream) return;
  const root = document.documentElement;
  let source = null;
  let opened = false;

  // What the reader opened stays open.
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, element) =>
    !(name === "open" && element.localName === "details");

  // What the reader has scrolled to stays where it is when rows come or go above it.
  let kept = null;

  function firstRowSeen() {
    if (region.getBoundingClientRect().top >= 0) return null; // he is at the beginning, where what is new belongs
    const row = [...region.querySelectorAll("tr[id]")].find((one) => one.getBoundingClientRect().top >= 0);
    return row ? { id: row.id, top: row.getBoundingClientRect().top } : null;
  }

  function restore() {
    const row = kept && document.getElementById(kept.id);
    if (row) window.scrollBy(0, row.getBoundingClientRect().top - kept.top);
  }

  function refresh() {
    htmx.trigger(region, "change");
  }

  function listen() {
    source = new EventSource(region.dataset.stream);
    source.addEventListener("change", refresh);
    source.onopen = () => {
      if (opened) refresh(); // something may have happened in between
      opened = true;
    };
    source.onerror = () => {
      root.dataset.live = "off";
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
    };
  }

  // A browser has few connections to one server: a page that nobody sees leaves them to the others.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      source.close();
    } else if (source.readyState === EventSource.CLOSED) {
      listen();
    }
  });

  region.addEventListener("htmx:beforeSwap", () => { kept = firstRowSeen(); });
  region.addEventListener("htmx:afterSwap", () => {
    root.dataset.live = "on";
    restore();
  });
  region.addEventListener("htmx:sendError", () => { root.dataset.live = "off"; });
  region.addEventListener("htmx:responseError", (event) => {
    // 503 is that the license server does not answer, but with Retry-After that WebAdmin has too much to do.
    const { status, getResponseHeader } = event.detail.xhr;
    const silent = status === 503 && getResponseHeader.call(event.detail.xhr, "Retry-After") === null;
    root.dataset.live = silent ? "silent" : "off";
  });

  listen();
})();
