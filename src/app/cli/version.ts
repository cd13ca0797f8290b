/**
 * `version`: calicoctl's lines, of this program and of the cluster. A difference is only a warning.
 *
 * The commit is written into the bundle when it is built; run from the sources, it is the one that is checked out.
 */

import { existsSync, readFileSync, statSync } from 'node:fs'
import { resolve } from 'node:path'
import { version } from '../../lib/version.ts'
import { exitCodes } from '../report.ts'
import { withConnection, type Invocation } from './world.ts'

/** Put in by scripts/build.ts. */
declare const MANX_COMMIT: string | undefined

export async function showVersion(call: Invocation): Promise<number> {
  const { world, flags } = call
  world.out(`Client Version:   ${version}\nGit commit:       ${commit()}\n`)
  if (flags.client) return exitCodes.done
  await withConnection(call, async ({ resources }) => {
    const info = await resources.find('ClusterInformation', 'default')
    const cluster = info?.spec.calicoVersion || 'unknown'
    world.out(`Cluster Version:  ${cluster}\nCluster Type:     ${info?.spec.clusterType || 'unknown'}\n`)
  })
  return exitCodes.done
}

function commit(): string {
  if (typeof MANX_COMMIT === 'string') return MANX_COMMIT
  const root = `${import.meta.dirname}/../../..`
  const read = (path: string) => (existsSync(path) ? readFileSync(path, 'utf8').trim() : undefined)
  // In a worktree of git's, `.git` is a file that names a folder, which has a HEAD of its own and names the shared one.
  const isFile = statSync(`${root}/.git`, { throwIfNoEntry: false })?.isFile() === true
  const git = isFile ? read(`${root}/.git`)!.slice('gitdir: '.length) : `${root}/.git`
  const shared = isFile ? resolve(git, read(`${git}/commondir`) ?? '.') : git
  const head = read(`${git}/HEAD`)
  const ref = head?.startsWith('ref: ') ? head.slice('ref: '.length) : undefined
  if (ref === undefined) return head?.slice(0, 9) ?? 'unknown'
  const packed = read(`${shared}/packed-refs`)
    ?.split('\n')
    .find(line => line.endsWith(` ${ref}`))
  return (read(`${shared}/${ref}`) ?? packed)?.slice(0, 9) ?? 'unknown'
}
