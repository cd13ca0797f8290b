/**
 * Bundles the programs into dist/, so that the CLI starts in some 60 ms and the CNI plugin in 45 (from the
 * TypeScript both take about twice as long: platform-notes 1). bin/launch.sh prefers a bundle that is newer than every
 * source; development needs none.
 *
 * What is native or read once (koffi, fastify, pino, prom-client) stays outside, in node_modules; what a program imports
 * lazily becomes a chunk that is read only when used. gRPC is such a chunk: as a hundred files of node_modules it would cost
 * each command on etcd another 50 ms, and reading etcd's protocol from its text again as much.
 *
 *   node scripts/build.ts [PROGRAM...]
 */

import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build, type Plugin } from 'esbuild'
import protobufjs from 'protobufjs'

const { Root } = protobufjs

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const out = join(root, 'dist')

/** Program -> entry, the same names as in bin/. */
const programs: Readonly<Record<string, string>> = {
  manxd: 'src/app/main.ts',
  manxctl: 'src/app/cli/main.ts',
  'manx-cni': 'src/app/cni.ts',
  'manx-bgp': 'src/app/speaker/daemon.ts',
}

const wanted = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(programs)
const missing = wanted.filter(name => !programs[name] || !existsSync(join(root, programs[name])))
if (missing.length > 0) {
  console.error(`error: nothing to build for ${missing.map(name => programs[name] ?? name).join(', ')}`)
  process.exit(1)
}

// Outside a checkout (sources from a tarball) nobody knows it.
const commit = spawnSync('git', ['rev-parse', '--short=9', 'HEAD'], { cwd: root, encoding: 'utf8' }).stdout?.trim()

/** etcd3 parses the protocol's text at each start; here it is put in as what the parser makes of it. */
const etcdProtocol: Plugin = {
  name: 'etcd-protocol',
  setup(builder) {
    builder.onLoad({ filter: /etcd3\/lib\/connection-pool\.js$/ }, ({ path }) => {
      const source = readFileSync(path, 'utf8')
      const call = '(0, proto_loader_1.loadSync)(`${__dirname}/../proto/rpc.proto`'
      if (!source.includes(call))
        throw new Error(`etcd3 loads its protocol in another way than this build knows: ${path}`)
      // The same options as in the call that this replaces: names as they are in the file.
      const parsed = new Root().loadSync(join(dirname(path), '../proto/rpc.proto'), { keepCase: true }).toJSON()
      return { contents: source.replace(call, `(0, proto_loader_1.fromJSON)(${JSON.stringify(parsed)}`) }
    })
  },
}

const startedMs = performance.now()
mkdirSync(out, { recursive: true })
for (const name of wanted) {
  rmSync(join(out, `${name}.js`), { force: true })
  rmSync(join(out, `${name}-chunks`), { force: true, recursive: true })
}

// One build per program: chunks shared between programs would make the CNI plugin read what only the agent needs, and one
// that cannot be built keeps no other from it.
const results = await Promise.allSettled(
  wanted.map(name =>
    build({
      entryPoints: { [name]: join(root, programs[name]!) },
      outdir: out,
      bundle: true,
      splitting: true,
      chunkNames: `${name}-chunks/[name]-[hash]`,
      format: 'esm',
      platform: 'node',
      target: 'node24',
      external: ['koffi', 'fastify', 'pino', 'prom-client', 'esbuild'],
      plugins: [etcdProtocol],
      // CommonJS packages inside an ES module bundle call `require`, which has to be made for them.
      banner: { js: "import { createRequire } from 'node:module';\nconst require = createRequire(import.meta.url);" },
      // Half the octets to read and compile at each start; names stay, for stack traces.
      minifyWhitespace: true,
      minifySyntax: true,
      define: { MANX_COMMIT: JSON.stringify(commit || 'unknown') },
      sourcemap: 'linked',
      legalComments: 'none',
      logLevel: 'warning',
      metafile: true,
    }),
  ),
)
for (const [i, result] of results.entries()) {
  const name = wanted[i]!
  if (result.status === 'rejected') {
    console.error(`error: dist/${name}.js could not be built`)
    process.exitCode = 1
    continue
  }
  const outputs = Object.entries(result.value.metafile.outputs)
  const bytes = outputs.find(([file]) => file.endsWith(`${name}.js`))?.[1].bytes ?? 0
  console.log(`dist/${name}.js  ${Math.round(bytes / 1024)} KiB`)
}
console.log(`built in ${Math.round(performance.now() - startedMs)} ms`)
