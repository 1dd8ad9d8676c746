/** Every test, one after the other: they count what one server counts. */

import "./connection.test.js";
import "./experiments.test.js";
import "./generation.test.js";
import "./identity.test.js";
import "./patience.test.js";
import "./recipes.test.js";
import "./requests.test.js";
import "./retries.test.js";
import "./words.test.js";
