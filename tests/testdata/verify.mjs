// Verifies tokens as a service in JavaScript does: with jose, and keys that it fetches by their URL.
// It reads {"jwks", "options", "tokens"} and answers for each token {"claims", "kid", "alg"} or
// {"code"}. JOSE_DIR names the folder of the package.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const folder = process.env.JOSE_DIR
const { main } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
const { createRemoteJWKSet, jwtVerify } = await import(pathToFileURL(join(folder, main)))

const { jwks, options, tokens } = JSON.parse(readFileSync(0, 'utf8'))
const keys = createRemoteJWKSet(new URL(jwks))
const answers = []
for (const token of tokens) {
  try {
    const { payload, protectedHeader } = await jwtVerify(token, keys, options)
    answers.push({ claims: payload, kid: protectedHeader.kid, alg: protectedHeader.alg })
  } catch (error) {
    answers.push({ code: error.code ?? String(error) })
  }
}
process.stdout.write(JSON.stringify(answers))
