/** Types of tools.mjs, which stays plain JavaScript for whatever Node is there first. */

export type ToolSet = 'demo' | 'etcd' | 'test' | 'interop'

export interface Ensured {
  readonly installed: readonly string[]
  readonly missing: readonly string[]
  readonly why: string
}

export declare const sets: Readonly<Record<ToolSet, readonly string[]>>
export declare function hasProgram(name: string): boolean
export declare function missingOf(set: ToolSet): string[]
export declare function ensureTools(set: ToolSet, say: (line: string) => void): Promise<Ensured>
export declare function unpackTool(name: string, say: (line: string) => void): Promise<string>
export declare function describeMissing(missing: readonly string[], why: string): string
