/** What `keyroll init` writes: an estate that loads as it is, with real ones to uncomment. */

/** The comment that editors with a YAML language server read; `keyroll schema` writes the file. */
const schemaLine = "# yaml-language-server: $schema=./keyroll.schema.json";

/** The lines that begin with `#|` are written as comments; without the mark they and the others are one estate, and a test loads it. */
const marked = `${schemaLine}
# Everything that Keyroll looks after. \`keyroll check\` judges it, \`keyroll schema > keyroll.schema.json\` lets your editor complete it.
# Secrets do not belong in here: write \${env:NAME} or \${file:path} in settings.
version: 1

# What holds for every credential that says nothing else.
defaults:
  owner: platform-team
  policy:
    rotateBefore: 30d      # before it expires
    maxAge: 90d            # or when it is this old
    soak: 10m              # how long old and new stay valid together after the last switch
    # window: "Sat 02:00-06:00 Europe/Amsterdam"
    # approvals: { retire: 1 }

# What Keyroll connects to, and how it signs in.
#|systems:
#|  pg:
#|    type: postgres
#|    url: "\${env:APP_DATABASE_ADMIN_URL}"

credentials:
  # A thought experiment: places of type model have declared traits and no connector. \`keyroll plan example\` shows the order, and proves it.
  example:
    kind: password
    issuer: { type: model }
    places:
      database: { type: model, verifier: true, capacity: 2 }
      app: { type: model, holder: true, presentsTo: [database], refresh: 30s }

  # A PostgreSQL password, in two login roles that are taken in turn, and the file from which the application reads it.
#|  app-db-password:
#|    kind: password
#|    issuer: { type: random, length: 40 }
#|    places:
#|      role:
#|        type: postgres.role
#|        system: pg
#|        verifier: true
#|        owner: app
#|        roles: [app_a, app_b]
#|      env:
#|        type: file.value
#|        holder: true
#|        presentsTo: [role]
#|        path: ./app.env
#|        format: dotenv
#|        keys: { user: DB_USER, password: DB_PASSWORD }
#|        refresh: 5s          # how long until the application has read it again

  # A TLS certificate under a private CA. The CA itself is a credential too: rolling it gives the leaf a new version.
#|  web-ca:
#|    kind: ca
#|    issuer: { type: x509.self-signed, kind: ca, subject: "CN=Web CA", validity: 1825d }
#|    places:
#|      clients: { type: file.certificate, verifier: true, kind: bundle, certificate: ./ca-bundle.pem }
#|      web: { credential: web, presentsTo: [clients] }
#|    policy: { maxAge: never, rotateBefore: 180d }
#|  web:
#|    kind: certificate
#|    issuer: { type: x509.ca, ca: web-ca, names: [www.example.org], validity: 90d }
#|    places:
#|      nginx:
#|        type: file.certificate
#|        holder: true
#|        certificate: ./web.pem
#|        key: ./web.key
#|        reload: { argv: [nginx, -s, reload] }
#|      seen: { type: tls.endpoint, host: www.example.org }
`;

export const starterEstate = marked.replaceAll("#|", "# ");

/** With everything uncommented. */
export const wholeStarterEstate = marked.replaceAll("#|", "");
