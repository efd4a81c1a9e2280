// What a person can do something about, as one line; other errors are faults of the page.

export class Refusal extends Error {}
