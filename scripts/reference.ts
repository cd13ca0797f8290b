/**
 * The reference pages that come from code: docs/settings.md. `--check` writes nothing and fails when a page is not what the
 * code says, so that `npm run check` keeps the two together.
 */

import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { settings } from '../src/app/config.ts'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')

function settingsPage(): string {
  const rows = settings.map(({ key, env, fallback, secret, oneOf, about }) => {
    const names = env.map(name => `\`${name}\``).join(', ')
    const values = oneOf ? ` (${oneOf.join(', ')})` : ''
    return `| \`${key}\` | ${names} | ${fallback === undefined ? '' : `\`${fallback}\``} | ${about}${values}${secret ? '; printed as `set`' : ''} |`
  })
  return `# Settings

Made by \`node scripts/reference.ts\` from \`src/app/config.ts\`. \`manxd\` takes each from the environment, then from its file
(\`--config\`, else \`/etc/manx/manxd.yaml\`), then the default; \`manxctl\` from flags, the environment, its file (\`-c\`, \`MANXCTL_CONFIG\`,
\`/etc/manx/manxctl.yaml\`, \`/etc/calico/calicoctl.cfg\`), then the default. Every variable may carry the prefix \`CALICO_\`, which wins.
\`manxd --print-config\` and \`manxctl config view\` show each value with its source.

| In files | In the environment | Default | Meaning |
|---|---|---|---|
${rows.join('\n')}
`
}

const pages = { 'docs/settings.md': settingsPage() }
let stale = 0
for (const [path, text] of Object.entries(pages)) {
  const file = join(root, path)
  if (!process.argv.includes('--check')) writeFileSync(file, text)
  else if (readFileSync(file, 'utf8') !== text) {
    console.error(`${path} is not what the code says: node scripts/reference.ts`)
    stale++
  }
}
process.exit(stale > 0 ? 1 : 0)
