/** Ask for page after page of a list, until the last. */
export async function* paged<Page extends { readonly nextPageToken: string }>(
  ask: (pageToken: string) => Promise<Page>,
): AsyncGenerator<Page, void> {
  let token = "";
  do {
    const page = await ask(token);
    yield page;
    token = page.nextPageToken;
  } while (token);
}
