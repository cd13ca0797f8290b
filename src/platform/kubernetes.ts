/**
 * Labels of a pod from the Kubernetes API, for network configurations that name a kubeconfig (contract §6.1).
 *
 * Reads the current context of the file: server, certificate authority, and a token, a token file or a client
 * certificate. One GET per ADD, nothing is watched. An API that cannot be asked fails the ADD with its reason, since a pod
 * without its labels would be open to or closed from the wrong peers.
 */

import { readFileSync } from 'node:fs'
import { request, type RequestOptions } from 'node:https'
import { parse } from 'yaml'
import { CodedError, reasonOf } from '../lib/errors.ts'

interface Named<T> {
  readonly name: string
  readonly value: T
}

interface Kubeconfig {
  readonly 'current-context'?: string
  readonly contexts?: readonly {
    readonly name: string
    readonly context: { readonly cluster: string; readonly user: string }
  }[]
  readonly clusters?: readonly { readonly name: string; readonly cluster: Cluster }[]
  readonly users?: readonly { readonly name: string; readonly user: User }[]
}

interface Cluster {
  readonly server: string
  readonly 'certificate-authority'?: string
  readonly 'certificate-authority-data'?: string
}

interface User {
  readonly token?: string
  readonly tokenFile?: string
  readonly 'client-certificate'?: string
  readonly 'client-certificate-data'?: string
  readonly 'client-key'?: string
  readonly 'client-key-data'?: string
}

/** The pod's labels and service account. Rejects with CodedError `kubernetes`. */
export async function readPod(
  kubeconfig: string,
  namespace: string,
  pod: string,
): Promise<{ labels: Readonly<Record<string, string>>; serviceAccount: string | undefined }> {
  try {
    const options = readKubeconfig(kubeconfig)
    const body = await get(
      options,
      `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods/${encodeURIComponent(pod)}`,
    )
    const answer = JSON.parse(body) as {
      metadata?: { labels?: Record<string, string> }
      spec?: { serviceAccountName?: string }
    }
    return { labels: answer.metadata?.labels ?? {}, serviceAccount: answer.spec?.serviceAccountName }
  } catch (error) {
    const message = `labels of pod ${namespace}/${pod} cannot be read with ${kubeconfig}: ${reasonOf(error)}`
    throw new CodedError({ code: 'kubernetes' }, message, { cause: error })
  }
}

function readKubeconfig(path: string): RequestOptions {
  const config = parse(readFileSync(path, 'utf8')) as Kubeconfig
  const context = config.contexts?.find(c => c.name === config['current-context'])?.context
  const cluster = pick(
    config.clusters?.map(c => ({ name: c.name, value: c.cluster })),
    context?.cluster,
  )
  const user = pick(
    config.users?.map(u => ({ name: u.name, value: u.user })),
    context?.user,
  )
  if (!cluster || !user) throw new RangeError('the current context names no cluster and user')
  const { hostname, port } = new URL(cluster.server)
  const token = user.token ?? (user.tokenFile && readFileSync(user.tokenFile, 'utf8').trim())
  const ca = pem(cluster['certificate-authority-data'], cluster['certificate-authority'])
  const cert = pem(user['client-certificate-data'], user['client-certificate'])
  const key = pem(user['client-key-data'], user['client-key'])
  return {
    host: hostname,
    port: port || 443,
    ...(ca && { ca }),
    ...(cert && { cert }),
    ...(key && { key }),
    headers: { accept: 'application/json', ...(token && { authorization: `Bearer ${token}` }) },
  }
}

function pick<T>(list: readonly Named<T>[] | undefined, name: string | undefined): T | undefined {
  return list?.find(item => item.name === name)?.value
}

function pem(inline: string | undefined, path: string | undefined): Buffer | undefined {
  if (inline !== undefined) return Buffer.from(inline, 'base64')
  return path === undefined ? undefined : readFileSync(path)
}

function get(options: RequestOptions, path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const call = request({ ...options, path, method: 'GET', timeout: 10_000 }, answer => {
      const parts: Buffer[] = []
      answer.on('data', (part: Buffer) => parts.push(part))
      answer.on('error', reject)
      answer.on('end', () => {
        const text = Buffer.concat(parts).toString('utf8')
        if (answer.statusCode === 200) resolve(text)
        else reject(new RangeError(`the API answered ${answer.statusCode}: ${text.slice(0, 200)}`))
      })
    })
    call.on('timeout', () => call.destroy(new RangeError('no answer in 10 s')))
    call.on('error', reject)
    call.end()
  })
}
