// The token comes behind the # of the URL, which browsers send to nobody, and stays with this tab and
// this origin: a cookie would be sent to each server on this machine, whatever its port.
const key = "token";

function take() {
  const given = new URLSearchParams(location.hash.slice(1)).get(key);
  if (!given) return;
  sessionStorage.setItem(key, given);
  history.replaceState(null, "", location.pathname); // it need not stay on display
}
take();
addEventListener("hashchange", take);

export function ask(path) {
  return fetch(path, { headers: { Authorization: `Bearer ${sessionStorage.getItem(key) ?? ""}` } });
}

// listen calls take with each event of a stream, and lost each time that there is no stream.
export async function listen(path, take, lost) {
  for (;;) {
    await stream(path, take).catch(() => {}); // how it ended makes no difference
    lost();
    await new Promise((again) => setTimeout(again, 1000));
  }
}

async function stream(path, take) {
  const answer = await ask(path);
  if (!answer.ok) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue;
      try {
        take(JSON.parse(event.slice("data: ".length)));
      } catch (error) {
        reportError(error); // it is the page's own, and the stream goes on
      }
    }
  }
}
