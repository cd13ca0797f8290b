/**
 * `version`: calicoctl's lines, of this program and of the cluster. A difference is only a warning.
 *
 * The commit is written into the bundle when it is built; run from the sources, it is the one that is checked out.
 */

import { spawnSync } from 'node:child_process'
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
  const { stdout } = spawnSync('git', ['rev-parse', '--short=9', 'HEAD'], { cwd: import.meta.dirname, encoding: 'utf8' })
  return stdout?.trim() || 'unknown'
}
