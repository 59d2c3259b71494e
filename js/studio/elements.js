// The custom elements of the page. Elements that contain others are defined after them, so that they can use them.
import { CodeSample } from "./code_sample.js";
import { Compare } from "./compare.js";
import { Composer } from "./composer.js";
import { ConnectionNote } from "./connection.js";
import { EngineNote } from "./engine.js";
import { Gallery } from "./gallery.js";
import { GalleryFilters } from "./gallery_filters.js";
import { ImageStage } from "./image_stage.js";
import { KeyForm } from "./key_form.js";
import { ModelSettings } from "./model_settings.js";
import { PromptField } from "./prompt_field.js";
import { Queue } from "./queue.js";
import { ReferencePicker } from "./references.js";
import { SelectionBar } from "./selection_bar.js";
import { SizePicker } from "./sizes.js";
import { ThemeSwitch } from "./theme_switch.js";
import { Verifier } from "./verifier.js";
import { Viewer } from "./viewer.js";

/** Define all of them. */
export function defineElements() {
  for (const [name, kind] of Object.entries({
    "um-theme-switch": ThemeSwitch,
    "um-connection": ConnectionNote,
    "um-size": SizePicker,
    "um-references": ReferencePicker,
    "um-model-settings": ModelSettings,
    "um-engine": EngineNote,
    "um-prompt": PromptField,
    "um-code-sample": CodeSample,
    "um-image-stage": ImageStage,
    "um-gallery-filters": GalleryFilters,
    "um-selection-bar": SelectionBar,
    "um-key-form": KeyForm,
    "um-composer": Composer,
    "um-queue": Queue,
    "um-gallery": Gallery,
    "um-viewer": Viewer,
    "um-compare": Compare,
    "um-verifier": Verifier,
  })) {
    customElements.define(name, /** @type {CustomElementConstructor} */ (kind));
  }
}
