/** Tunnels: ways for others into the sandbox, or through it. Seen in command lines, and in attempts to reach a relay. */

import type { ConnectionRecord } from "../../core/types.ts";
import { isLoopback } from "./observation.ts";
import type { SimpleCommand } from "./shell-words.ts";

/** Programs that do nothing but tunnel, and the first arguments with which they do; none listed: whatever they are given. */
const TUNNELLERS: Readonly<Record<string, readonly string[]>> = {
  ngrok: ["http", "tcp", "tls", "start", "tunnel"],
  chisel: ["client", "server"],
  cloudflared: ["tunnel", "access"],
  bore: ["local", "server"],
  devtunnel: ["host", "port", "connect"],
  tailscale: ["up", "funnel", "serve"],
  localtunnel: [],
  frpc: [],
  frps: [],
  tailscaled: [],
  "zerotier-one": [],
  rathole: [],
  iodine: [],
  iodined: [],
  dnscat: [],
  dnscat2: [],
  ptunnel: [],
  sshuttle: [],
  "gs-netcat": [],
  tmate: [],
  openvpn: [],
  "wg-quick": [],
  revsocks: [],
  "ligolo-ng": [],
  proxychains4: [],
  proxychains: [],
};

/** Options of ssh that take a value, which is no option itself. */
const SSH_WITH_VALUE = "BbcDEeFIiJLlmOopQRSWw";
const SHELLS = /\b(?:ba|da|z|k|a)?sh\b|\bpython|\bperl\b|\bcmd\.exe\b/;

/** Why the command is one, or `undefined`. */
export function tunnelIn({ program, args, writes }: SimpleCommand): string | undefined {
  if (program === "ssh" || program === "autossh" || program === "dbclient") return sshForwarding(args);
  if (program === "socat") return socatRelay(args);
  if (/^(?:nc|ncat|netcat)(?:\.\w+)?$/.test(program)) return netcatShell(args);
  const socket = writes.find((target) => /^\/dev\/(?:tcp|udp)\//.test(target));
  if (socket !== undefined && SHELLS.test(program) && args.some((arg) => /^-\w*i/.test(arg)))
    return `an interactive ${program} on ${socket}`;
  const code = SHELLS.test(program) || program === "ruby" || program === "php" ? args.join(" ") : "";
  if (/socket/i.test(code) && /connect/i.test(code) && /dup2|pty\.spawn|\/bin\/(?:ba)?sh/.test(code))
    return `${program} connects a shell to a socket`;
  const verbs = Object.hasOwn(TUNNELLERS, program) ? TUNNELLERS[program] : undefined;
  if (verbs === undefined || isQuestion(args)) return undefined;
  if (verbs.length === 0) return `${program} tunnels`;
  const verb = args.find((arg) => verbs.includes(arg));
  return verb === undefined ? undefined : `${program} ${verb} tunnels`;
}

function isQuestion(args: readonly string[]): boolean {
  return args.some((arg) => /^(?:-h|--help|-v|-V|--version|version|help)$/.test(arg));
}

function sshForwarding(args: readonly string[]): string | undefined {
  let operands = 0;
  for (let i = 0; i < args.length && operands < 2; i++) {
    const arg = args[i] as string;
    if (!arg.startsWith("-")) {
      operands++; // the host; what follows it runs there
      continue;
    }
    for (const [at, letter] of [...arg.slice(1)].entries()) {
      if ("RDLw".includes(letter)) return `ssh -${letter} forwards`;
      if (!SSH_WITH_VALUE.includes(letter)) continue;
      const value = at + 2 < arg.length ? arg.slice(at + 2) : (args[++i] ?? "");
      if (letter === "o" && /^(?:(?:Remote|Local|Dynamic)Forward|Tunnel)\b/i.test(value))
        return `ssh forwards: ${value}`;
      break;
    }
  }
  return undefined;
}

function socatRelay(args: readonly string[]): string | undefined {
  const addresses = args.filter((arg) => !arg.startsWith("-") || arg === "-");
  const isNetwork = (address: string) => /^(?:tcp|udp|ssl|openssl|sctp|socks|proxy|tun)/i.test(address);
  const isListener = (address: string) => isNetwork(address) && /listen|recvfrom|-l:/i.test(address);
  const leadsOut = (address: string) =>
    isNetwork(address) && !isListener(address) && !isLoopback(address.split(":")[1]?.split(",")[0] ?? "");
  const isProgram = (address: string) => /^(?:exec|system|shell)/i.test(address) && SHELLS.test(address);
  const networked = addresses.some(isNetwork);
  if (addresses.some(isListener) && addresses.some(leadsOut)) return "socat listens and passes on to the outside";
  if (networked && addresses.some(isProgram)) return "socat gives a shell to the network";
  return addresses.filter(leadsOut).length > 1 ? "socat joins two hosts" : undefined;
}

function netcatShell(args: readonly string[]): string | undefined {
  const gives = args.find((arg) => /^-[A-Za-z]*[ec]$|^--(?:sh-)?exec/.test(arg));
  return gives === undefined ? undefined : `netcat gives a program to the network: ${gives}`;
}

/** Names of services that lend ways in. */
const RELAYS =
  /(?:^|\.)(?:ngrok(?:-agent)?\.com|ngrok(?:-free)?\.(?:app|dev|io)|equinox\.io|argotunnel\.com|trycloudflare\.com|serveo\.net|localhost\.run|pinggy\.(?:io|link)|bore\.pub|localtunnel\.me|loca\.lt|telebit\.cloud|playit\.gg|devtunnels\.ms|tunnels\.api\.visualstudio\.com|tailscale\.com|zerotier\.com|gsocket\.io|tmate\.io|packetriot\.net|pagekite\.net)$/i;

/** Why the attempt to connect is one, whatever came of it, or `undefined`. */
export function tunnelTo({ host, port }: Pick<ConnectionRecord, "host" | "port">): string | undefined {
  return RELAYS.test(host) ? `connects to ${host}:${port}, a relay` : undefined;
}
