// What is nicer with script. Every page works without it.
(() => {
  'use strict';

  // A choice that needs no button.
  for (const select of document.querySelectorAll('select[data-submit]')) {
    select.form.classList.add('scripted');
    select.addEventListener('change', () => select.form.requestSubmit());
  }

  // Typing a number of days chooses "after a number of days".
  for (const input of document.querySelectorAll('[data-chooses]')) {
    const radio = input.form.querySelector(`input[name=expiry][value=${input.dataset.chooses}]`);
    input.addEventListener('input', () => { radio.checked = true; });
  }

  // Copy buttons.
  const status = document.getElementById('copied');
  for (const button of document.querySelectorAll('[data-copy]')) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener('click', async () => {
      const source = document.getElementById(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = 'Copied';
        if (status) status.textContent = 'Copied to the clipboard.';
      } catch {
        // The browser does not allow it: select the text, so that it can be copied by hand.
        getSelection().selectAllChildren(source);
      }
    });
  }

  // A page with a secret is emptied when it is left, so that going back does not show it again.
  const secret = document.querySelector('[data-secret-page]');
  if (secret) {
    // Loading the page again would send its form again.
    history.replaceState(null, '', secret.dataset.leave);
    addEventListener('pagehide', () => secret.replaceChildren());
    addEventListener('pageshow', (event) => { if (event.persisted) location.replace(secret.dataset.leave); });
  }

  // An open menu closes by Escape and by a click elsewhere.
  for (const menu of document.querySelectorAll('details.menu')) {
    menu.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape') return;
      menu.open = false;
      menu.querySelector('summary').focus();
    });
    document.addEventListener('click', (event) => { if (!menu.contains(event.target)) menu.open = false; });
  }
})();
