/** Addresses: each holds the whole view, so that it can be pasted into a ticket. Pages but the first are loaded when they are opened. */
import { createRootRoute, createRoute, createRouter, lazyRouteComponent } from "@tanstack/react-router";
import { basePath } from "./api.ts";
import { Overview } from "./pages/overview.tsx";
import { SignIn } from "./pages/sign-in.tsx";
import { Crashed, NotFound, Shell } from "./shell.tsx";

type Given = Readonly<Record<string, unknown>>;
/** The named fields that are there, as text. */
function texts<const N extends string>(given: Given, ...names: readonly N[]): { [Name in N]?: string } {
  const found: { [Name in N]?: string } = {};
  for (const name of names) {
    const value = given[name];
    if (typeof value === "string" && value !== "") found[name] = value;
  }
  return found;
}

const root = createRootRoute({ component: Shell, notFoundComponent: NotFound, errorComponent: Crashed });
const overview = createRoute({
  getParentRoute: () => root,
  path: "/",
  validateSearch: (given: Given) => texts(given, "view"),
  component: Overview,
});
const signIn = createRoute({
  getParentRoute: () => root,
  path: "/sign-in",
  component: SignIn,
});
const inventory = createRoute({
  getParentRoute: () => root,
  path: "/inventory",
  validateSearch: (given: Given) => texts(given, "q", "sort", "order", "item"),
  component: lazyRouteComponent(() => import("./pages/inventory.tsx"), "Inventory"),
});
const plan = createRoute({
  getParentRoute: () => root,
  path: "/credentials/$name/plan",
  validateSearch: (given: Given) => texts(given, "mode", "strategy"),
  component: lazyRouteComponent(() => import("./pages/plan.tsx"), "PlanPage"),
});
const rotations = createRoute({
  getParentRoute: () => root,
  path: "/rotations",
  validateSearch: (given: Given) => texts(given, "status", "credential"),
  component: lazyRouteComponent(() => import("./pages/rotations.tsx"), "Rotations"),
});
const rotation = createRoute({
  getParentRoute: () => root,
  path: "/rotations/$id",
  component: lazyRouteComponent(() => import("./pages/rotation.tsx"), "RotationPage"),
});
const tasks = createRoute({
  getParentRoute: () => root,
  path: "/tasks",
  validateSearch: (given: Given) => texts(given, "state"),
  component: lazyRouteComponent(() => import("./pages/tasks.tsx"), "Tasks"),
});
const task = createRoute({
  getParentRoute: () => root,
  path: "/tasks/$id",
  component: lazyRouteComponent(() => import("./pages/tasks.tsx"), "TaskPage"),
});
const audit = createRoute({
  getParentRoute: () => root,
  path: "/audit",
  validateSearch: (given: Given) => texts(given, "rotation", "credential", "kind"),
  component: lazyRouteComponent(() => import("./pages/audit.tsx"), "Audit"),
});
const settings = createRoute({
  getParentRoute: () => root,
  path: "/settings",
  component: lazyRouteComponent(() => import("./pages/settings.tsx"), "Settings"),
});

export const router = createRouter({
  routeTree: root.addChildren([overview, signIn, inventory, plan, rotations, rotation, tasks, task, audit, settings]),
  basepath: basePath === "" ? "/" : basePath,
  defaultPreload: "intent",
  scrollRestoration: true,
  // Plain `key=value`: an address is read and written by people too.
  parseSearch: (text) => Object.fromEntries(new URLSearchParams(text)),
  stringifySearch: (search) => {
    const params = new URLSearchParams();
    for (const [key, value] of Object.entries(search))
      if (typeof value === "string" && value !== "") params.set(key, value);
    const text = params.toString().replaceAll("%3A", ":").replaceAll("%2C", ",");
    return text === "" ? "" : `?${text}`;
  },
});

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}
