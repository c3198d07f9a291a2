// Two devices with npm ws: says and hears, then prints what happened as JSON.
// usage: node talk.js URL TOKEN_A TOKEN_B ACCOUNT_B COUNT
'use strict';
const WebSocket = require('ws');
const crypto = require('crypto');

const [url, tokenA, tokenB, accountB, countText] = process.argv.slice(2);
const count = Number(countText);
const body = (i) => Buffer.from(`from ws ${i}`).toString('base64url');
const acks = [];
const got = [];
let pongs = 0;

function device(token, handlers) {
  const ws = new WebSocket(url, ['quipu.v1.json'], { perMessageDeflate: false });
  ws.on('open', () => ws.send(JSON.stringify(
    { t: 1, id: 1, token, agent: 'interop ws', window: 64 })));
  ws.on('message', (data, binary) => {
    if (binary) throw new Error('a binary message in quipu.v1.json');
    const frame = JSON.parse(data.toString());
    if (frame.t === 19) throw new Error(data.toString());
    if (handlers[frame.t]) handlers[frame.t](frame, ws);
  });
  ws.on('pong', () => { pongs++; });
  return ws;
}

const a = device(tokenA, {
  2: (_frame, ws) => {
    ws.ping('are you there');
    for (let i = 1; i <= count; i++) {
      ws.send(JSON.stringify({
        t: 5, id: i, seq: i, after: i - 1, to: accountB, seen: 0, class: 1,
        mid: crypto.randomBytes(16).toString('base64url'), body: body(i),
      }));
    }
  },
  6: (frame) => { acks.push(frame.seq); finish(); },
});
const b = device(tokenB, {
  7: (frame, ws) => {
    got.push(Buffer.from(frame.body, 'base64url').toString());
    if (got.length === count) ws.send(JSON.stringify({ t: 8, cursor: frame.n }));
    finish();
  },
});

function finish() {
  if (acks.length < count || got.length < count) return;
  let codes = [];
  for (const ws of [a, b]) {
    ws.on('close', (code) => {
      codes.push(code);
      if (codes.length === 2) console.log(JSON.stringify({ acks, got, pongs, codes }));
    });
    ws.close(1000, 'done');
  }
}
