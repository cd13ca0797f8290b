/**
 * What `npm pack` needs beside the sources' own: JavaScript and types. Runs as `prepack`.
 *
 *   dist/manxd.js ...            the programs, bundled (scripts/build.ts)
 *   dist/lib/bgp.js              `manx/bgp`, bundled for Node 20 and later; koffi stays a dependency
 *   dist/lib/types/**.d.ts       its types, one file per source, as the compiler emits them
 *   dist/examples/*.js           those of examples/bgp, importing `manx/bgp` by its name
 *
 * Node does not strip types below node_modules, so nothing in the package may run from TypeScript. Declarations keep `.ts`
 * in their import paths when emitted; here they become `.js`, which every resolution mode understands.
 *
 *   node scripts/pack.ts
 */

import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build, transform, type Plugin } from 'esbuild'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const lib = join(root, 'dist/lib')
const entry = join(root, 'src/app/speaker.ts')

/** Modules of ours do nothing by being imported: what is not used is left out, with all that only it imports. */
const withoutSideEffects: Plugin = {
  name: 'without-side-effects',
  setup(on) {
    on.onResolve({ filter: /^\.\.?\/.*\.ts$/ }, ({ path, resolveDir }) => ({
      path: resolve(resolveDir, path),
      sideEffects: false,
    }))
  },
}

async function buildLibrary(): Promise<void> {
  await build({
    stdin: { contents: `export * from ${JSON.stringify(entry)}`, resolveDir: root, loader: 'ts' },
    outdir: lib,
    entryNames: 'bgp',
    chunkNames: 'bgp-chunks/[name]-[hash]',
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    external: ['koffi'],
    plugins: [withoutSideEffects],
    legalComments: 'none',
    logLevel: 'warning',
  })
}

/** Types of the entry and of all that it names. */
function emitTypes(): void {
  mkdirSync(join(root, '.cache'), { recursive: true })
  const temporary = mkdtempSync(join(root, '.cache/types-'))
  try {
    const config = join(temporary, 'tsconfig.json')
    const compilerOptions = {
      noEmit: false,
      declaration: true,
      emitDeclarationOnly: true,
      rewriteRelativeImportExtensions: true,
      rootDir: join(root, 'src'),
      outDir: join(lib, 'types'),
      stripInternal: true,
      skipLibCheck: true,
      typeRoots: [join(root, 'node_modules/@types')],
    }
    writeFileSync(
      config,
      JSON.stringify({ extends: join(root, 'tsconfig.json'), compilerOptions, files: [entry], include: [] }),
    )
    const { status, stdout } = spawnSync(process.execPath, [
      join(root, 'node_modules/typescript/bin/tsc'),
      '-p',
      config,
    ])
    if (status !== 0) throw new Error(`tsc ended with ${status}:\n${stdout.toString()}`)
  } finally {
    rmSync(temporary, { recursive: true })
  }
  for (const file of filesBelow(join(lib, 'types'), '.d.ts')) {
    const text = readFileSync(file, 'utf8')
    const changed = text.replaceAll(/((?:from|import\()\s*['"]\.[^'"]*)\.ts(['"])/g, '$1.js$2')
    if (changed !== text) writeFileSync(file, changed)
  }
}

/** In the repository they import the source; in the package, the package. */
async function buildExamples(): Promise<string[]> {
  const from = join(root, 'examples/bgp')
  const to = join(root, 'dist/examples')
  rmSync(to, { recursive: true, force: true })
  mkdirSync(to, { recursive: true })
  const made: string[] = []
  for (const file of readdirSync(from).filter(name => name.endsWith('.ts'))) {
    const { code } = await transform(readFileSync(join(from, file), 'utf8'), { loader: 'ts', target: 'node20' })
    made.push(join(to, file.replace(/\.ts$/, '.js')))
    writeFileSync(made.at(-1)!, code.replaceAll(/(['"])\.\.\/\.\.\/src\/app\/speaker\.ts\1/g, "'manx/bgp'"))
  }
  return made
}

function filesBelow(folder: string, ending: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter(found => found.isFile() && found.name.endsWith(ending))
    .map(found => join(found.parentPath, found.name))
}

rmSync(lib, { recursive: true, force: true })
const programs = spawnSync(process.execPath, [join(root, 'scripts/build.ts')], {
  stdio: ['ignore', 'ignore', 'inherit'],
})
if (programs.status !== 0) throw new Error(`scripts/build.ts ended with ${programs.status}`)
await buildLibrary()
emitTypes()
const examples = await buildExamples()
// npm prints what prepack prints among its own answer: stderr is for people.
console.error(
  `dist/lib/bgp.js, ${filesBelow(join(lib, 'types'), '.d.ts').length} files of types, ${examples.length} examples`,
)
