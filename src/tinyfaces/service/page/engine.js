// What finds and covers faces: here the service. The static page has another file in place of this one, whose engine runs in the tab.

export { Refusal, detect, offers, picture, restore } from "./service.js";
