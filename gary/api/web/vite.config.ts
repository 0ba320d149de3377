import { readFileSync } from "node:fs";
import { defineConfig, type Plugin } from "vite";

const STYLE = /<style[^>]*>([\s\S]*?)<\/style>/;
const STYLE_MODULE = "virtual:wavesurfer-style";

/**
 * Takes the <style> element out of wavesurfer's shadow root, where a strict style-src refuses it, and hands its text out as a
 * module: src/wave.ts adopts it as a style sheet, which is no inline style. The build fails where there is nothing to take.
 */
function wavesurferStyle(): Plugin {
  return {
    name: "wavesurfer-style",
    resolveId: (id) => (id === STYLE_MODULE ? `\0${id}` : undefined),
    load(id) {
      if (id !== `\0${STYLE_MODULE}`) return undefined;
      const library = new URL("node_modules/wavesurfer.js/dist/wavesurfer.esm.js", import.meta.url);
      const found = STYLE.exec(readFileSync(library, "utf8"))?.[1];
      // the one value that is computed is a height, which the library sets on the element as well
      const css = found?.replaceAll("\\n", "\n").replace(/[\w-]+:\s*\$\{[^}]*\}[^;]*;/g, "");
      if (!css || css.includes("${")) throw new Error("wavesurfer.js has another style than was expected");
      return `export default ${JSON.stringify(css)}`;
    },
    transform: {
      filter: { id: /wavesurfer\.js\/dist\/wavesurfer/ },
      handler(code) {
        if (!STYLE.test(code)) throw new Error("wavesurfer.js has no style where it was expected");
        return { code: code.replace(STYLE, ""), map: null };
      },
    },
  };
}

export default defineConfig({
  base: "./",
  plugins: [wavesurferStyle()],
  build: {
    target: ["chrome123", "firefox121", "safari17.5"],
    modulePreload: { polyfill: false },
    // data: URIs would need a wider Content-Security-Policy
    assetsInlineLimit: 0,
    reportCompressedSize: false,
    // what the libraries' licences ask of those who pass them on
    license: { fileName: "assets/licences.md" },
  },
});
