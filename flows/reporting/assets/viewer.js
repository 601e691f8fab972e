// The 3D views of a report: every view is a plain canvas, all of them drawn by one WebGL renderer, because browsers
// allow a page about sixteen WebGL contexts. Only what is on screen is decoded and drawn.
(() => {
  "use strict";
  const root = document.documentElement;
  const CREASE = Math.cos((38 * Math.PI) / 180); // faces that meet at a sharper angle keep a visible edge
  const FRAME = 1000 / 32; // milliseconds between frames while turning: calm on a laptop
  const FIELD_OF_VIEW = 26;
  const views = [...document.querySelectorAll("[data-stage]")];
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  // --- page furniture that needs a script --------------------------------------------------------------------------
  const overview = document.querySelector(".overview");
  if (overview && "IntersectionObserver" in window) {
    const bar = document.querySelector(".bar");
    bar.classList.add("at-top");
    new IntersectionObserver(([entry]) => bar.classList.toggle("at-top", entry.isIntersecting), {
      rootMargin: "-48px 0px 0px 0px",
    }).observe(overview);
  }
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const text = document.getElementById(button.dataset.copy);
      getSelection().selectAllChildren(text);
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Selected";
      }
      setTimeout(() => (button.textContent = "Copy"), 1600);
    });
  }

  if (!views.length) return;
  let renderer;
  try {
    if (!("DecompressionStream" in window)) throw new Error("this browser is too old for the packed meshes");
    const probe = document.createElement("canvas").getContext("webgl2");
    if (!probe) throw new Error("WebGL is switched off or missing");
    probe.getExtension("WEBGL_lose_context")?.loseContext();
    renderer = new THREE.WebGLRenderer({ antialias: true, alpha: true });
  } catch (reason) {
    root.dataset.viewer = "unavailable";
    for (const view of views) view.querySelector(".no-webgl").hidden = false;
    console.info("3D views are off: " + reason.message);
    return;
  }
  renderer.setClearColor(0x000000, 0);
  renderer.domElement.addEventListener("webglcontextrestored", () => stages.forEach((stage) => (stage.dirty = true)));

  // --- meshes ------------------------------------------------------------------------------------------------------
  // Row differences stored column after column, low bytes before high bytes (flows/reporting/geometry.py).
  function undoDifferences(bytes, offset, rows, width) {
    const count = 3 * rows;
    const values = width === 2 ? new Uint16Array(count) : new Uint32Array(count);
    for (let column = 0; column < 3; column++) {
      let sum = 0;
      for (let row = 0; row < rows; row++) {
        const at = column * rows + row;
        let difference = 0;
        for (let plane = width - 1; plane >= 0; plane--) difference = difference * 256 + bytes[offset + plane * count + at];
        sum = width === 2 ? (sum + difference) & 0xffff : (sum + difference) >>> 0;
        values[3 * row + column] = sum;
      }
    }
    return values;
  }

  async function decode(text) {
    const packed = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    const head = new DataView(bytes.buffer);
    const vertices = head.getInt32(0, true);
    const faces = head.getInt32(4, true);
    const places = head.getInt32(8, true);
    const low = [12, 16, 20].map((at) => head.getFloat32(at, true));
    const step = head.getFloat32(24, true);
    const quantised = undoDifferences(bytes, 28, vertices, 2);
    const positions = Float32Array.from(quantised, (value, k) => low[k % 3] + step * value);
    const indices = undoDifferences(bytes, 28 + 6 * vertices, faces, 4);
    const after = 28 + 6 * vertices + 12 * faces;
    return { positions, indices, places: bytes.subarray(after, after + places) };
  }

  // From blue at the first residue to red at the last: how molecular viewers show where along a chain one is.
  function spectrum({ indices, places }) {
    const colours = new Float32Array(3 * indices.length);
    const here = new THREE.Color();
    indices.forEach((vertex, corner) => {
      here.setHSL((0.66 * (255 - places[vertex])) / 255, 0.62, 0.52);
      here.toArray(colours, 3 * corner);
    });
    return new THREE.BufferAttribute(colours, 3);
  }

  // Corner normals: the area-weighted mean of the faces around the vertex that lie within the crease angle.
  function creased(mesh) {
    const { positions, indices } = mesh;
    const faces = indices.length / 3;
    const area = new Float32Array(3 * faces);
    const unit = new Float32Array(3 * faces);
    const corners = new Float32Array(9 * faces);
    const starts = new Uint32Array(positions.length / 3 + 1);
    for (let f = 0; f < faces; f++) {
      const [a, b, c] = [3 * indices[3 * f], 3 * indices[3 * f + 1], 3 * indices[3 * f + 2]];
      for (let k = 0; k < 3; k++) {
        corners[9 * f + k] = positions[a + k];
        corners[9 * f + 3 + k] = positions[b + k];
        corners[9 * f + 6 + k] = positions[c + k];
      }
      for (let k = 0; k < 3; k++) {
        const [i, j] = [(k + 1) % 3, (k + 2) % 3];
        area[3 * f + k] =
          (positions[b + i] - positions[a + i]) * (positions[c + j] - positions[a + j]) -
          (positions[b + j] - positions[a + j]) * (positions[c + i] - positions[a + i]);
      }
      const length = Math.hypot(area[3 * f], area[3 * f + 1], area[3 * f + 2]) || 1;
      for (let k = 0; k < 3; k++) {
        unit[3 * f + k] = area[3 * f + k] / length;
        starts[indices[3 * f + k] + 1]++;
      }
    }
    for (let v = 1; v < starts.length; v++) starts[v] += starts[v - 1];
    const around = new Uint32Array(indices.length);
    const filled = starts.slice();
    for (let k = 0; k < indices.length; k++) around[filled[indices[k]]++] = (k / 3) | 0;

    const normals = new Float32Array(9 * faces);
    for (let k = 0; k < indices.length; k++) {
      const f = 3 * ((k / 3) | 0);
      for (let at = starts[indices[k]]; at < starts[indices[k] + 1]; at++) {
        const g = 3 * around[at];
        if (unit[f] * unit[g] + unit[f + 1] * unit[g + 1] + unit[f + 2] * unit[g + 2] < CREASE && f !== g) continue;
        for (let axis = 0; axis < 3; axis++) normals[3 * k + axis] += area[g + axis];
      }
      const length = Math.hypot(normals[3 * k], normals[3 * k + 1], normals[3 * k + 2]) || 1;
      for (let axis = 0; axis < 3; axis++) normals[3 * k + axis] /= length;
    }
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.BufferAttribute(corners, 3));
    geometry.setAttribute("normal", new THREE.BufferAttribute(normals, 3));
    if (mesh.places.length) geometry.setAttribute("color", spectrum(mesh));
    return geometry;
  }

  // A small sphere around all meshes: step towards the farthest point, ever shorter (Badoiu & Clarkson 2003).
  function enclosing(meshes, centre) {
    let radius = 0;
    for (let round = 0; ; round++) {
      let [far, square] = [null, 0];
      for (const { positions } of meshes)
        for (let k = 0; k < positions.length; k += 3) {
          const [x, y, z] = [positions[k] - centre[0], positions[k + 1] - centre[1], positions[k + 2] - centre[2]];
          const here = x * x + y * y + z * z;
          if (here > square) [far, square] = [[x, y, z], here];
        }
      radius = Math.sqrt(square);
      if (!far || round === 24) return { centre, radius };
      centre = centre.map((value, k) => value + far[k] / (round + 3));
    }
  }

  // --- stages: meshes side by side that share one camera -----------------------------------------------------------
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  class Stage {
    constructor(element) {
      this.element = element;
      this.canvases = [...element.querySelectorAll("canvas")];
      this.turning = element.dataset.stage === "turning" && !still.matches;
      this.visible = false;
      this.dirty = true;
      this.camera = new THREE.PerspectiveCamera(FIELD_OF_VIEW, 1, 0.01, 100);
      this.camera.position.set(0.62, 0.42, 0.85);
      this.key = new THREE.DirectionalLight(0xffffff, 2.8);
      this.fill = new THREE.DirectionalLight(0xffffff, 0.5);
      this.key.position.set(-0.7, 1.0, 0.9);
      this.fill.position.set(1.2, -0.2, 0.5);
      // With their targets the lights travel with the camera: whichever way a mesh is turned, it is lit from above.
      this.camera.add(this.key, this.key.target, this.fill, this.fill.target);
      const hands = element.querySelector(".views");
      this.controls = new THREE.OrbitControls(this.camera, hands);
      Object.assign(this.controls, { enablePan: false, enableZoom: false, enableDamping: true, dampingFactor: 0.12 });
      this.controls.autoRotateSpeed = 2.2; // a turn in about 27 seconds
      hands.style.touchAction = "pan-y"; // a finger still scrolls the page
      this.controls.addEventListener("change", () => (this.dirty = true));
      this.controls.addEventListener("start", () => this.turn(false));
      // The wheel scrolls the page until somebody has clicked into the view.
      hands.addEventListener("pointerdown", () => (this.controls.enableZoom = true));
      hands.addEventListener("pointerleave", () => (this.controls.enableZoom = false));
      element.addEventListener("keydown", (event) => this.onKey(event));
      this.buttons(element);
      this.turn(this.turning);
      new ResizeObserver(() => (this.dirty = true)).observe(element);
    }

    buttons(element) {
      this.turnButton = element.querySelector("[data-turn]");
      this.turnButton.addEventListener("click", () => this.turn(!this.turning));
      const wide = element.querySelector("[data-wide]");
      wide.hidden = !document.fullscreenEnabled;
      wide.addEventListener("click", () =>
        document.fullscreenElement ? document.exitFullscreen() : element.requestFullscreen(),
      );
      element.querySelector(".buttons").hidden = false;
    }

    turn(on) {
      this.turning = on;
      this.controls.autoRotate = on;
      const words = on ? "Stop turning" : "Turn slowly";
      this.turnButton.dataset.turn = on ? "on" : "off";
      this.turnButton.title = words;
      this.turnButton.setAttribute("aria-label", words);
    }

    onKey(event) {
      if (event.target !== this.element) return;
      const by = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] }[event.key];
      if (event.key === " ") this.turn(!this.turning);
      else if (event.key === "+" || event.key === "=") this.camera.position.multiplyScalar(1 / 1.1);
      else if (event.key === "-") this.camera.position.multiplyScalar(1.1);
      else if (by) {
        this.turn(false);
        const { x, y, z } = this.camera.position;
        const radius = Math.hypot(x, y, z);
        const around = Math.atan2(x, z) + by[0];
        const down = Math.min(Math.PI - 0.05, Math.max(0.05, Math.acos(y / radius) + by[1]));
        const flat = radius * Math.sin(down);
        this.camera.position.set(flat * Math.sin(around), radius * Math.cos(down), flat * Math.cos(around));
      } else return;
      event.preventDefault();
      this.dirty = true;
    }

    async load() {
      this.loading = true;
      const meshes = await Promise.all(
        this.canvases.map((canvas) => decode(document.getElementById(canvas.dataset.mesh).textContent)),
      );
      // One frame for all meshes of a stage: side by side means at the same place and scale.
      const low = [Infinity, Infinity, Infinity];
      const high = [-Infinity, -Infinity, -Infinity];
      for (const { positions } of meshes)
        positions.forEach((value, k) => {
          low[k % 3] = Math.min(low[k % 3], value);
          high[k % 3] = Math.max(high[k % 3], value);
        });
      const { centre, radius } = enclosing(meshes, low.map((value, k) => (value + high[k]) / 2));
      this.radius = radius || 1;
      this.scenes = meshes.map((mesh, k) => {
        const scene = new THREE.Scene();
        const shaded = mesh.places.length > 0;
        const material = new THREE.MeshStandardMaterial({
          roughness: 0.62,
          metalness: 0,
          side: THREE.DoubleSide,
          vertexColors: shaded,
        });
        const body = new THREE.Mesh(creased(mesh), material);
        if (mesh.indices.length) body.position.set(-centre[0], -centre[1], -centre[2]);
        scene.add(body, new THREE.HemisphereLight(0xffffff, 0x6a747c, 1.35));
        return { scene, material, colour: shaded ? null : this.canvases[k].dataset.colour };
      });
      const distance = (this.radius / Math.sin((FIELD_OF_VIEW * Math.PI) / 360)) * 1.1;
      this.camera.position.setLength(distance);
      this.camera.near = distance / 100;
      this.camera.far = distance * 10;
      this.controls.minDistance = distance * 0.3;
      this.controls.maxDistance = distance * 3;
      this.controls.update();
      this.paint();
    }

    paint() {
      for (const { material, colour: name } of this.scenes ?? []) if (name) material.color.set(colour(name));
      this.dirty = true;
    }

    draw() {
      this.dirty = false;
      const ratio = Math.min(devicePixelRatio || 1, 2);
      this.canvases.forEach((canvas, k) => {
        const width = Math.round(canvas.clientWidth * ratio);
        const height = Math.round(canvas.clientHeight * ratio);
        if (!width || !height) return;
        if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
        const shared = renderer.domElement;
        if (shared.width < width || shared.height < height)
          renderer.setSize(Math.max(shared.width, width), Math.max(shared.height, height), false);
        renderer.setViewport(0, 0, width, height);
        renderer.setScissor(0, 0, width, height);
        renderer.setScissorTest(true);
        // The smaller side of the canvas holds the whole mesh.
        const aspect = width / height;
        const half = Math.tan((FIELD_OF_VIEW * Math.PI) / 360);
        this.camera.fov = (Math.atan(aspect < 1 ? half / aspect : half) * 360) / Math.PI;
        this.camera.aspect = aspect;
        this.camera.updateProjectionMatrix();
        const { scene } = this.scenes[k];
        scene.add(this.camera); // its lights shine into the scene that it is part of
        renderer.render(scene, this.camera);
        const paper = canvas.getContext("2d");
        paper.clearRect(0, 0, width, height);
        paper.drawImage(shared, 0, shared.height - height, width, height, 0, 0, width, height);
      });
      if (!this.element.dataset.ready) {
        this.element.dataset.ready = "true";
        root.dataset.viewer = "ready";
      }
    }
  }

  const stages = views.map((element) => new Stage(element));
  const byElement = new Map(stages.map((stage) => [stage.element, stage]));
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        const stage = byElement.get(entry.target);
        stage.visible = entry.isIntersecting;
        if (stage.visible && !stage.loading)
          stage.load().catch((reason) => {
            stage.element.dataset.failed = "true";
            stage.element.querySelector(".no-webgl").hidden = false;
            console.error("a mesh of this report could not be shown: " + reason.message);
          });
      }
    },
    { rootMargin: "240px" },
  );
  for (const stage of stages) watcher.observe(stage.element);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => stages.forEach((stage) => stage.paint()));

  let before = performance.now();
  function frame(now) {
    requestAnimationFrame(frame);
    if (now - before < FRAME) return;
    const seconds = Math.min((now - before) / 1000, 0.1);
    before = now;
    for (const stage of stages) {
      if (!stage.visible || !stage.scenes) continue;
      stage.controls.update(seconds);
      if (stage.dirty) stage.draw();
    }
  }
  requestAnimationFrame(frame);
})();
