/**
 * `version`: calicoctl's lines, of this program and of the cluster. A difference is only a warning.
 *
 * The commit is written into the bundle when it is built; run from the sources, it is the one that is checked out.
 */

import { existsSync, readFileSync } from 'node:fs'
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
  const git = `${import.meta.dirname}/../../../.git`
  const read = (path: string) =>
    existsSync(`${git}/${path}`) ? readFileSync(`${git}/${path}`, 'utf8').trim() : undefined
  const head = read('HEAD')
  const ref = head?.startsWith('ref: ') ? head.slice('ref: '.length) : undefined
  const packed =
    ref &&
    read('packed-refs')
      ?.split('\n')
      .find(line => line.endsWith(` ${ref}`))
  const hash = ref === undefined ? head : (read(ref) ?? packed)
  return hash?.slice(0, 9) ?? 'unknown'
}
