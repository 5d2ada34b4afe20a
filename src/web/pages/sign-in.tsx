/** One-time codes come in the fragment of a link, which browsers do not send: no server, proxy or log sees it before it is exchanged. */
import { useNavigate } from "@tanstack/react-router";
import { useEffect, useRef, useState, type FormEvent } from "react";
import { client, queries } from "../api.ts";
import { Icon, Logo } from "../icon.tsx";
import { Loading, ProblemNote, useTitle } from "../parts.tsx";
import { useSession } from "../session.ts";

/** A whole link, or its code alone. */
const codeOf = (text: string): string => {
  const at = text.lastIndexOf("#");
  return (at < 0 ? text : text.slice(at + 1)).trim();
};

export function SignIn() {
  useTitle("Sign in");
  const navigate = useNavigate();
  const session = useSession();
  const [text, setText] = useState("");
  const [busy, setBusy] = useState(location.hash.length > 1);
  const [error, setError] = useState<unknown>(null);
  const used = useRef(false);

  const exchange = async (code: string) => {
    setBusy(true);
    setError(null);
    try {
      const answer = await client.call("signIn", { body: { code } });
      queries.setQueryData(["getSession", {}], answer);
      // The code is used up, and out of the history as well.
      if (location.pathname.endsWith("/sign-in")) await navigate({ to: "/", replace: true });
    } catch (caught) {
      setError(caught);
    }
    setBusy(false);
  };
  useEffect(() => {
    const code = codeOf(location.hash);
    if (code === "" || used.current) return;
    used.current = true;
    history.replaceState(history.state, "", `${location.pathname}${location.search}`);
    void exchange(code);
  });
  useEffect(() => {
    if (session.data?.person != null && !busy && error === null && location.pathname.endsWith("/sign-in"))
      void navigate({ to: "/", replace: true });
  }, [session.data, busy, error, navigate]);

  const submit = (event: FormEvent) => {
    event.preventDefault();
    void exchange(codeOf(text));
  };
  return (
    <main className="alone">
      <Logo size={40} />
      <h1>Sign in to Keyroll</h1>
      {busy ? (
        <Loading what="your session" rows={1} />
      ) : (
        <>
          <p className="mut">
            Open the sign-in link that the server printed on its terminal, or that an admin sent you. It works once.
          </p>
          {error === null ? null : <ProblemNote error={error} />}
          <form onSubmit={submit} className="stack">
            <label htmlFor="code">Sign-in link or code</label>
            <input
              id="code"
              name="code"
              value={text}
              onChange={(event) => setText(event.target.value)}
              required
              autoComplete="one-time-code"
              spellCheck={false}
            />
            <button type="submit" className="btn pri">
              <Icon name="lock" />
              Sign in
            </button>
          </form>
          <p className="mut small">
            No link? On the server <code className="mono">keyroll sign-in</code> prints a new one, good on that machine.
          </p>
        </>
      )}
    </main>
  );
}
