"use strict";
// What tests ask of a report. Every function returns a list of what is wrong.
globalThis.checks = (() => {
  const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const linear = [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  // The first background that is not transparent. There is no half transparent one.
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = channels(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const say = (e, what) => `${e.tagName}.${e.getAttribute("class") ?? ""} "${e.textContent.trim().replace(/\s+/g, " ").slice(0, 40)}": ${what}`;
  const seen = (e) => e.checkVisibility() && !e.closest(".unseen");

  return {
    // Text has 4.5, and lines and boxes have 3, as WCAG 2.1 asks for (1.4.3 and 1.4.11).
    contrast() {
      const wrong = [];
      let texts = 0;
      for (const e of document.body.querySelectorAll("*")) {
        const style = getComputedStyle(e);
        const check = (colour, least) => {
          const got = contrast(channels(colour), behind(e));
          if (got < least) wrong.push(say(e, got.toFixed(2)));
        };
        if (!seen(e)) continue;
        // A button and a select look as the browser has them.
        const own = [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.textContent.trim() !== "");
        if (own && !["SCRIPT", "STYLE", "NOSCRIPT", "OPTION", "BUTTON"].includes(e.tagName)) {
          texts++;
          check(e instanceof SVGElement ? style.fill : style.color, 4.5);
        }
        if (e.matches(".line, .whisker, .mark")) check(style.stroke, 3);
        if (e.matches(".box, .dot")) check(style.fill, 3);
      }
      if (texts < 20) wrong.push(`only ${texts} texts were found`);
      return wrong;
    },

    // What is drawn, and what can be operated, has a name.
    names() {
      const wrong = [];
      for (const e of document.querySelectorAll("canvas, svg, input, select, button, [tabindex]")) {
        const name = e.getAttribute("aria-label") ?? e.labels?.[0]?.textContent ?? (e.tagName === "BUTTON" ? e.textContent : "");
        if (name.trim() === "" && e.getAttribute("aria-hidden") !== "true") wrong.push(say(e, "no name"));
      }
      return wrong;
    },

    overflow() {
      const width = document.documentElement.clientWidth;
      if (document.documentElement.scrollWidth <= width) return [];
      const wide = [...document.body.querySelectorAll("*")]
        .filter((e) => !e.closest(".scroll, .unseen") && e.getBoundingClientRect().right > width + 0.5);
      return [`${document.documentElement.scrollWidth} of ${width}`, ...wide.map((e) => say(e, e.getBoundingClientRect().right))];
    },
  };
})();
