// The page holds its libraries as base64 of gzip, a quarter of their size; its policy states their digests.
for (const packed of document.querySelectorAll("script[type='application/gzip']")) {
  const bytes = Uint8Array.from(atob(packed.textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  packed.replaceWith(script);
}
