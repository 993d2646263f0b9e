// The load of the server, asked for every two seconds while somebody looks.

import { drawCost } from "./charts.js";
import { getStatus, isKeyWanted } from "./api.js";
import { byId, make } from "./dom.js";
import { fixed, percent } from "./wording.js";

const EVERY = 2000;

export class LoadWatch {
  /** `onStatus` gets each status; `onError` what went wrong instead. */
  constructor(ring, onStatus, onError) {
    this.ring = ring;
    this.onStatus = onStatus;
    this.onError = onError;
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
    this.isRefused = false; // then there is no use in asking until the key has changed
    setInterval(() => document.hidden || this.isRefused || this.look(), EVERY);
    this.look();
  }

  async look() {
    try {
      const status = await getStatus(this.ring);
      this.isRefused = false;
      this.onStatus(status);
      this.#show(status);
    } catch (error) {
      byId("load").replaceChildren();
      this.isRefused = isKeyWanted(error);
      this.onError(error);
    }
  }

  #show(status) {
    byId("model").textContent = status.model;
    const share = status.kv_tokens ? status.kv_tokens_used / status.kv_tokens : 0;
    const figures = [
      ["running", status.num_running],
      ["waiting", status.num_waiting],
      ["cache", percent(share)],
      ["tokens/s", fixed(status.tokens_per_second, 0)],
    ];
    byId("load").replaceChildren(
      ...figures.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
    );
    drawCost(byId("cost"), status.cost);
  }
}
