// Before and after, one over the other, with a divider; fitted into the view, or at 1:1 in a view that scrolls.

export class Compare {
  /** The elements by their ids in index.html. */
  constructor({ view, stage, before, after, divider, position, fit, actual }) {
    Object.assign(this, { view, stage, before, after, divider, position, fit, actual });
    this.isActual = false;

    position.addEventListener("input", () => this.draw());
    view.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.layout()).observe(view);
    fit.addEventListener("click", () => this.zoom(false));
    actual.addEventListener("click", () => this.zoom(true));
    stage.addEventListener("dblclick", (event) => this.zoom(!this.isActual, event));
    stage.addEventListener("pointerdown", (event) => this.drag(event));
  }

  /** Show a photo, and an empty output of `scale` times its size that tiles are put into. */
  open({ pixels, width, height, scale }) {
    this.before.width = width;
    this.before.height = height;
    this.before.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
    this.after.width = width * scale;
    this.after.height = height * scale;
    // until a tile is there, what it will cover is seen as before
    this.after.getContext("2d").drawImage(this.before, 0, 0, width * scale, height * scale);
    this.zoom(false);
  }

  put(pixels, x, y, width, height) {
    this.after.getContext("2d").putImageData(new ImageData(pixels, width, height), x, y);
  }

  /** At 1:1 one pixel of the output is one of the screen; `event` says which point stays where it is. */
  zoom(isActual, event) {
    const box = this.stage.getBoundingClientRect();
    const x = event ? (event.clientX - box.left) / box.width : 0.5;
    const y = event ? (event.clientY - box.top) / box.height : 0.5;

    this.isActual = isActual;
    this.fit.setAttribute("aria-pressed", String(!isActual));
    this.actual.setAttribute("aria-pressed", String(isActual));
    this.view.classList.toggle("actual", isActual);
    this.layout();
    this.view.scrollLeft = x * this.stage.offsetWidth - this.view.clientWidth / 2;
    this.view.scrollTop = y * this.stage.offsetHeight - this.view.clientHeight / 2;
    this.draw();
  }

  layout() {
    if (!this.after.width || !this.view.clientWidth) return;
    const pixel = 1 / window.devicePixelRatio;
    let width = this.after.width * pixel;
    let height = this.after.height * pixel;
    if (!this.isActual) {
      const room = parseFloat(getComputedStyle(this.view).maxHeight) || Infinity;
      const shrink = Math.min(this.view.clientWidth / width, (room - 2) / height);
      width *= shrink;
      height *= shrink;
    }
    this.stage.style.width = `${width}px`;
    this.stage.style.height = `${height}px`;
    this.draw();
  }

  /** Where the divider is: the slider's part of what is seen of the stage. */
  draw() {
    const seen = Math.min(this.view.clientWidth, this.stage.offsetWidth);
    const x = this.view.scrollLeft + (this.position.value / 100) * seen;
    this.after.style.clipPath = `inset(0 0 0 ${x}px)`;
    this.divider.style.left = `${x}px`;
    this.position.setAttribute("aria-valuetext", `${this.position.value} % before, the rest after`);

    const [left, right] = this.stage.querySelectorAll(".tag");
    left.style.left = `${this.view.scrollLeft + 8}px`;
    right.style.left = `${this.view.scrollLeft + seen - right.offsetWidth - 8}px`;
    for (const tag of [left, right]) tag.style.top = `${this.view.scrollTop + 8}px`;
  }

  /** The divider follows the pointer; elsewhere at 1:1 a mouse moves the photo, and a finger scrolls it. */
  drag(event) {
    if (event.button) return;
    const pans = this.isActual && event.target !== this.divider;
    if (pans && event.pointerType !== "mouse") return;

    event.preventDefault();
    this.view.focus({ preventScroll: true });
    const stop = new AbortController();
    let { clientX, clientY } = event;
    const move = (to) => {
      if (pans) {
        this.view.scrollBy(clientX - to.clientX, clientY - to.clientY);
        ({ clientX, clientY } = to);
      } else {
        const left = Math.max(this.stage.getBoundingClientRect().left, this.view.getBoundingClientRect().left);
        const seen = Math.min(this.view.clientWidth, this.stage.offsetWidth);
        this.position.value = ((to.clientX - left) / seen) * 100;
        this.draw();
      }
    };
    if (!pans) move(event);
    addEventListener("pointermove", move, { signal: stop.signal });
    for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => stop.abort(), { signal: stop.signal });
  }
}
