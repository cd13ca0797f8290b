/**
 * The import rules of house-style.md, "Who may import whom", as far as oxlint cannot express them.
 *
 * Every `.ts` file under src belongs to a room (its first folder) and, inside bgp and felix, to a layer. Each import is
 * looked up in the tables below; whatever they do not allow is printed as `file:line: rule`. Type-only imports count
 * too: a room that knows another's types knows the other room.
 *
 * Decisions written into the tables, each an exception that the page names or needs:
 * - `lib` and `platform` have no door of their own: lib is for everybody, and an adapter is imported by its file, or
 *   every CLI start would load gRPC.
 * - `src/app/lab` may start processes: a lab is made of other programs. All of it sits in one file, lab/process.ts.
 * - `bgp/mesh-*.ts` are parts of mesh and may touch model like it.
 * - `bgp/types.ts` stands between wire and session/rib: the words in which those two and the speaker talk.
 *
 *   node scripts/rooms.ts [FILE...]      exit 1 when a rule is broken
 */

import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, posix, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

export interface Import {
  readonly line: number
  readonly specifier: string
  /** Names in braces, `*` for all; empty for a bare import. */
  readonly names: readonly string[]
}

export interface Finding {
  readonly file: string
  readonly line: number
  readonly rule: string
}

type Room = 'lib' | 'model' | 'bgp' | 'felix' | 'ipam' | 'platform' | 'app'

const roomsBelow: Record<Room, readonly Room[]> = {
  lib: [],
  model: ['lib'],
  bgp: ['model', 'lib'],
  felix: ['model', 'lib'],
  ipam: ['model', 'lib'],
  platform: ['lib'],
  app: ['platform', 'bgp', 'felix', 'ipam', 'model', 'lib'],
}

const doorless: ReadonlySet<Room> = new Set(['lib', 'platform'])

/** Layers of a room, each with those it may import; `top` is every other file directly in the room. */
const layersBelow: Partial<Record<Room, Record<string, readonly string[]>>> = {
  bgp: {
    wire: [],
    types: ['wire'],
    session: ['types', 'wire'],
    rib: ['types', 'wire'],
    top: ['session', 'rib', 'types', 'wire'],
  },
  felix: { calc: [], rules: ['calc'], sync: [], top: ['calc', 'rules', 'sync'] },
}

/** Files of another layer that are open all the same: every mark of "ours" lives in names.ts. */
const openFiles: Readonly<Record<string, string>> = { 'src/felix/sync': 'src/felix/rules/names.ts' }

interface PackageRule {
  readonly packages: RegExp
  readonly allowed: (file: string) => boolean
  readonly rule: string
}

const inPlatform = (file: string) => file.startsWith('src/platform/')

const packageRules: readonly PackageRule[] = [
  {
    packages: /^(node:)?child_process$/,
    allowed: file => inPlatform(file) || file === 'src/app/lab/process.ts',
    rule: 'node:child_process belongs to platform (and to app/lab/process.ts, which builds labs out of programs)',
  },
  {
    packages: /^(node:)?(net|dgram|tls)$/,
    allowed: inPlatform,
    rule: 'sockets belong to platform',
  },
  {
    packages: /^(etcd3|@grpc\/.*|cockatiel)(\/|$)/,
    allowed: inPlatform,
    rule: 'the etcd client belongs to platform',
  },
  {
    packages: /^(koffi|node:sqlite|prom-client|pino)$/,
    allowed: inPlatform,
    rule: 'kernel calls, SQLite, metrics and log writers belong to platform',
  },
  {
    packages: /^@?fastify(\/|$)/,
    allowed: file => file === 'src/app/http.ts',
    rule: 'fastify belongs to app/http.ts',
  },
  {
    packages: /^(node:)?fs(\/promises)?$/,
    allowed: file => inPlatform(file) || file.startsWith('src/app/'),
    rule: 'node:fs belongs to platform and app',
  },
]

/** What is wrong with one file; `file` is its path from the repository's root, with slashes. */
export function checkFile(file: string, text: string): Finding[] {
  const room = roomOf(file)
  if (!room) return [{ file, line: 1, rule: `src has no room for this file: ${Object.keys(roomsBelow).join(', ')}` }]
  const code = withoutComments(text)
  const findings: Finding[] = []
  for (const found of importsOf(code)) {
    const rule = found.specifier.startsWith('.') ? brokenByFile(file, room, found) : brokenByPackage(file, found)
    if (rule) findings.push({ file, line: found.line, rule })
  }
  const shape = brokenByShape(file, room, code)
  if (shape) findings.push({ file, line: 1, rule: shape })
  return findings
}

function brokenByPackage(file: string, found: Import): string | undefined {
  const broken = packageRules.find(rule => rule.packages.test(found.specifier) && !rule.allowed(file))
  return broken && `imports ${found.specifier}: ${broken.rule}`
}

function brokenByFile(file: string, room: Room, found: Import): string | undefined {
  const target = posix.normalize(posix.join(posix.dirname(file), found.specifier))
  const targetRoom = roomOf(target)
  if (!targetRoom) return `imports ${target}: outside src`
  if (!target.endsWith('.ts')) return `imports ${found.specifier}: write the .ts extension`
  if (targetRoom !== room) return brokenBetweenRooms(file, room, target, targetRoom)
  return brokenBetweenLayers(file, room, target) ?? brokenByName(file, target, found)
}

function brokenBetweenRooms(file: string, room: Room, target: string, targetRoom: Room): string | undefined {
  if (!roomsBelow[room].includes(targetRoom)) return `${room} may not import ${targetRoom} (${target})`
  if (room === 'bgp' && targetRoom === 'model' && !/^src\/bgp\/mesh(-[a-z]+)?\.ts$/.test(file))
    return `only bgp/mesh.ts touches model (${target})`
  if (file.startsWith('src/felix/sync/') && target.includes('/policy')) return `felix/sync knows no policy (${target})`
  if (!doorless.has(targetRoom) && target !== `src/${targetRoom}/index.ts`)
    return `${targetRoom} is entered through src/${targetRoom}/index.ts, not ${target}`
  return undefined
}

function brokenBetweenLayers(file: string, room: Room, target: string): string | undefined {
  const layers = layersBelow[room]
  if (!layers) return undefined
  const from = layerOf(file, layers)
  const to = layerOf(target, layers)
  if (from === to || layers[from]!.includes(to) || openFiles[posix.dirname(file)] === target) return undefined
  return `${room}/${from} may not import ${room}/${to} (${target})`
}

/** Felix's rules render text; they must not even name the kernel port. */
function brokenByName(file: string, target: string, found: Import): string | undefined {
  if (!file.startsWith('src/felix/rules/') || target !== 'src/lib/ports.ts') return undefined
  const kernel = found.names.find(name => name.startsWith('Kernel'))
  return kernel && `felix/rules knows no kernel (imports ${kernel})`
}

function brokenByShape(file: string, room: Room, code: string): string | undefined {
  if (posix.basename(file) !== 'index.ts') return undefined
  if (posix.dirname(file) !== `src/${room}`) return 'an index.ts stands only at the door of a room'
  const rest = code.replaceAll(/export\s+(type\s+)?(\*(\s+as\s+\w+)?|\{[^}]*\})\s*from\s*(['"])[^'"]+\4\s*;?/g, '')
  return rest.trim() === '' ? undefined : `an index.ts holds re-exports and nothing more: ${rest.trim().split('\n')[0]}`
}

function roomOf(file: string): Room | undefined {
  const name = /^src\/([^/]+)\//.exec(file)?.[1]
  return name !== undefined && name in roomsBelow ? (name as Room) : undefined
}

function layerOf(file: string, layers: Record<string, unknown>): string {
  const name = file.split('/')[2]!.replace(/\.ts$/, '')
  return name in layers && name !== 'top' ? name : 'top'
}

/** Static and dynamic imports and re-exports of a text without comments. */
export function importsOf(code: string): Import[] {
  const pattern =
    /(?:^|[\s;}])(?:import|export)\b((?:\s+type\b)?\s*(?:[\w$]+\s*,?\s*)?(?:\{[^}]*\}|\*(?:\s+as\s+[\w$]+)?)?)\s*from\s*(['"])([^'"\n]+)\2|(?:^|[\s;}])import\s*(['"])([^'"\n]+)\4|\bimport\s*\(\s*(['"`])([^'"`\n]+)\6/g
  const imports: Import[] = []
  for (const match of code.matchAll(pattern)) {
    const specifier = match[3] ?? match[5] ?? match[7]!
    const at = match.index + match[0].lastIndexOf(specifier)
    const braces = /\{([^}]*)\}/.exec(match[1] ?? '')?.[1]
    const names =
      braces?.split(',').map(
        name =>
          name
            .trim()
            .replace(/^type\s+/, '')
            .split(/\s+as\s+/)[0]!,
      ) ?? []
    imports.push({ line: code.slice(0, at).split('\n').length, specifier, names: names.filter(name => name !== '') })
  }
  return imports
}

/** The text with comments blanked out, line breaks kept; strings are left alone, for a URL holds `//`. */
export function withoutComments(text: string): string {
  const token = /\/\*[\s\S]*?\*\/|\/\/[^\n]*|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\[\s\S])*`/g
  return text.replaceAll(token, found =>
    found.startsWith('/*') || found.startsWith('//') ? found.replaceAll(/[^\n]/g, ' ') : found,
  )
}

function sourceFiles(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter(entry => entry.isFile() && entry.name.endsWith('.ts'))
    .map(entry => join(entry.parentPath, entry.name))
    .sort()
}

function main(): void {
  const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
  const named = process.argv.slice(2).map(file => resolve(file))
  const files = named.length > 0 ? named : sourceFiles(join(root, 'src'))
  const findings = files.flatMap(file =>
    checkFile(relative(root, file).replaceAll('\\', '/'), readFileSync(file, 'utf8')),
  )
  for (const { file, line, rule } of findings) console.log(`${file}:${line}: ${rule}`)
  console.log(`rooms: ${files.length} files, ${findings.length} broken rules`)
  process.exitCode = findings.length > 0 ? 1 : 0
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main()
