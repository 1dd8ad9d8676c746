/** Every test, one after the other: they count what one server counts. */

import "./connection.test.js";
import "./experiments.test.js";
import "./generation.test.js";
import "./recipes.test.js";
import "./words.test.js";
