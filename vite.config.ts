import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// Addresses in the built page are relative, and the server writes `<base>` with its own base path into it; while developing it is the root.
// Nothing is inlined: the server's content security policy allows files of its own origin only.
export default defineConfig({
  root: "src/web",
  base: "./",
  plugins: [
    react(),
    {
      name: "base-tag",
      apply: "serve",
      transformIndexHtml: () => [{ tag: "base", attrs: { href: "/" }, injectTo: "head-prepend" }],
    },
  ],
  build: {
    outDir: "../../dist/web",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2024",
  },
  server: {
    host: "127.0.0.1",
    proxy: { "/api": { target: process.env["KEYROLL_URL"] ?? "http://127.0.0.1:7490", changeOrigin: true } },
  },
});
