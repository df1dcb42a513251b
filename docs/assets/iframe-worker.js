// Browsers start no workers from file://. There, this runs the search's worker in a hidden frame of the same page.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    #queue = []
    #send = message => this.#queue.push(message)

    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const scope = frame.contentWindow
      scope.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      const script = frame.contentDocument.createElement("script")
      script.src = url
      script.onload = () => {
        this.#send = data => scope.dispatchEvent(new MessageEvent("message", { data }))
        this.#queue.forEach(this.#send)
      }
      frame.contentDocument.body.append(script)
    }

    postMessage(data) {
      this.#send(data)
    }
  }
}
