// Browsers run no web workers in pages that are opened as files. There the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      // What the worker posts goes out as this object's events.
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = (...urls) =>
        Promise.all(
          urls.map(
            (source) =>
              new Promise((resolve, reject) => {
                const script = inside.document.createElement("script");
                Object.assign(script, { src: source, onload: resolve, onerror: reject });
                inside.document.body.append(script);
              }),
          ),
        );
      this.inside = inside;
      this.ready = inside.importScripts(url);
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.inside.frameElement.remove();
    }
  };
}
