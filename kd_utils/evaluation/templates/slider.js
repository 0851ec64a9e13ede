// Makes every slider of the page live: any two pictures, zoom at whole pixels, panning. Without it the two first
// pictures can still be compared. Only the standard library of a browser; no request is made.
(() => {
  const ZOOMS = [0, 1, 2, 4, 8]; // 0 shows the whole picture

  function start(box) {
    box.classList.add("kd-ready");
    const view = box.querySelector(".kd-view"), range = view.querySelector("input");
    const layers = [view.querySelector(".kd-before"), view.querySelector(".kd-after")];
    const store = box.querySelector(".kd-store"), tags = view.querySelectorAll("b");
    const selects = box.querySelectorAll("select"), buttons = box.querySelectorAll("[data-zoom]");
    const pictures = [...box.querySelectorAll("img")].sort((a, b) => a.dataset.n - b.dataset.n);
    const width = +box.style.getPropertyValue("--w"), height = +box.style.getPropertyValue("--h");
    let zoom = 0, left = 0, top = 0; // of the picture's corner within the view, in CSS pixels

    // Any two pictures: each layer holds one, the rest wait where they are not drawn.
    function choose() {
      pictures.forEach(p => store.append(p));
      selects.forEach((select, side) => {
        const picture = pictures[select.value];
        tags[side].textContent = picture.alt;
        if (picture.parentNode === store) layers[side].append(picture);
      });
    }

    // One picture pixel is a whole number of the screen's pixels, so that no pixel is shown wider than its neighbour.
    function scale() {
      const dots = window.devicePixelRatio || 1;
      return zoom ? Math.max(1, Math.round(zoom * dots)) / dots : view.clientWidth / width;
    }

    function place() {
      const dots = window.devicePixelRatio || 1, s = scale();
      const fit = (at, size, room) => {
        const most = Math.max(0, size - room);
        return size < room ? (room - size) / 2 : Math.min(0, Math.max(-most, at));
      };
      left = fit(left, width * s, view.clientWidth);
      top = fit(top, height * s, view.clientHeight);
      const whole = v => `${Math.round(v * dots) / dots}px`;
      box.classList.toggle("kd-zoomed", zoom > 0);
      box.style.setProperty("--tx", zoom ? whole(left) : "0px");
      box.style.setProperty("--ty", zoom ? whole(top) : "0px");
      box.style.setProperty("--iw", zoom ? `${width * s}px` : "100%");
      buttons.forEach(b => b.setAttribute("aria-pressed", +b.dataset.zoom === zoom));
    }

    // Zoom so that the picture's point (px, py), in picture pixels, lies at (x, y) of the view.
    function look(to, px, py, x = view.clientWidth / 2, y = view.clientHeight / 2) {
      zoom = to;
      left = x - px * scale();
      top = y - py * scale();
      place();
    }

    function point(event) {
      const at = view.getBoundingClientRect();
      return [event.clientX - at.left, event.clientY - at.top];
    }

    function zoomAt(to, x = view.clientWidth / 2, y = view.clientHeight / 2) {
      const s = scale();
      look(to, (x - left) / s, (y - top) / s, x, y);
    }

    function line(x) {
      range.value = Math.min(100, Math.max(0, 100 * x / view.clientWidth));
      box.style.setProperty("--x", `${range.value}%`);
    }

    selects.forEach(select => select.addEventListener("change", choose));
    range.addEventListener("input", () => box.style.setProperty("--x", `${range.value}%`));
    buttons.forEach(b => b.addEventListener("click", () => zoomAt(+b.dataset.zoom)));
    box.querySelectorAll("[data-spot]").forEach(b => b.addEventListener("click", () => {
      const [x, y] = b.dataset.spot.split(" ").map(Number);
      look(Math.max(zoom, 4), x, y);
    }));

    // A drag moves the line; in a zoomed picture, away from the line, it moves the picture.
    view.addEventListener("pointerdown", event => {
      if (event.button) return;
      const [x0, y0] = point(event), from = [left, top];
      const pans = zoom && Math.abs(x0 - range.value / 100 * view.clientWidth) > 30;
      const move = e => {
        const [x, y] = point(e);
        if (!pans) return line(x);
        [left, top] = [from[0] + x - x0, from[1] + y - y0];
        place();
      };
      const end = () => {
        view.removeEventListener("pointermove", move);
        view.style.cursor = "";
      };
      view.setPointerCapture(event.pointerId);
      view.addEventListener("pointermove", move);
      view.addEventListener("pointerup", end, { once: true });
      view.addEventListener("pointercancel", end, { once: true });
      view.style.cursor = pans ? "grabbing" : "";
      range.focus({ preventScroll: true });
      event.preventDefault();
      move(event);
    });
    view.addEventListener("dblclick", event => zoomAt(zoom ? 0 : 2, ...point(event)));
    view.addEventListener("wheel", event => {
      if (!event.ctrlKey) return; // the page scrolls
      event.preventDefault();
      const at = ZOOMS.indexOf(zoom) - Math.sign(event.deltaY);
      zoomAt(ZOOMS[Math.min(ZOOMS.length - 1, Math.max(0, at))], ...point(event));
    }, { passive: false });
    range.addEventListener("keydown", event => {
      const step = { "+": 1, "=": 1, "-": -1 }[event.key];
      const pan = event.shiftKey && { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!step && !pan) return;
      event.preventDefault();
      if (step) return zoomAt(ZOOMS[Math.min(ZOOMS.length - 1, Math.max(0, ZOOMS.indexOf(zoom) + step))]);
      left += pan[0] * view.clientWidth / 8;
      top += pan[1] * view.clientHeight / 8;
      place();
    });
    new ResizeObserver(place).observe(view);
    choose();
    place();
  }

  document.querySelectorAll(".kd-slider:not(.kd-ready)").forEach(start);
})();
